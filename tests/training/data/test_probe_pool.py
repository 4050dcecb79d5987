"""Nothing in a clip ends the process that asks about it, or another clip's probe."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from tests.numbered import write_clip
from training.data.keyframes import key_frame_pool
from training.data.probe_pool import MAX_BYTES, PoolClosed, ProbePool
from training.data.video import UnreadableVideo

PATIENCE = 60
"""Seconds, a guard against hanging."""


@pytest.fixture
def pool(request: pytest.FixtureRequest) -> Iterator[ProbePool]:
    """One process; a test's `limits` are the pool's."""
    made = ProbePool(processes=1, **getattr(request, "param", {}))
    yield made
    made.close()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", options={"g": "4"})


def processes() -> list[psutil.Process]:
    children = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
    return [p for p in children if "training.data.probing" in p.cmdline()]


def test_a_process_is_kept_from_clip_to_clip(pool: ProbePool, clip: Path) -> None:
    before = processes()
    started = set()
    for _ in range(3):
        pool.probe(clip, lambda count: [started.update(set(processes()) - set(before)) or 0])  # type: ignore[func-returns-value]
    assert len(started) == 1


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL])
def test_a_clip_that_crashes_its_process_is_unreadable_and_the_next_is_read(
    pool: ProbePool, clip: Path, number: signal.Signals
) -> None:
    def crash(count: int) -> list[int]:
        for process in processes():
            process.send_signal(number)
        return [1]

    with pytest.raises(UnreadableVideo, match=f"was ended by {number.name}, twice"):
        pool.probe(clip, crash)
    assert pool.probe(clip, lambda count: [1]).frames == 40


def test_a_process_that_somebody_ends_once_is_no_clips_fault(pool: ProbePool, clip: Path) -> None:
    crashes: list[int] = []

    def crash_once(count: int) -> list[int]:
        if not crashes:
            crashes.append(count)
            for process in processes():
                process.kill()
        return [1]

    assert pool.probe(clip, crash_once).frames == 40 and crashes


def test_a_process_that_ended_while_idle_is_replaced(pool: ProbePool, clip: Path) -> None:
    pool.probe(clip, lambda count: [1])
    for process in processes():
        process.kill()
    while processes():
        pass
    assert pool.probe(clip, lambda count: [1]).frames == 40


@pytest.mark.parametrize("pool", [{"seconds": 1}], indirect=True)
def test_a_clip_that_takes_too_long_is_unreadable(pool: ProbePool, clip: Path) -> None:
    def slow(count: int) -> list[int]:
        for process in processes():
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        return [1]

    with pytest.raises(UnreadableVideo, match="more than the 1 s"):
        pool.probe(clip, slow)
    assert pool.probe(clip, lambda count: [1]).frames == 40


@pytest.mark.parametrize("pool", [{"max_bytes": 120 * 2**20}], indirect=True)
def test_a_clip_that_takes_too_much_memory_is_unreadable(tmp_path: Path, pool: ProbePool, clip: Path) -> None:
    large = tmp_path / "large.mkv"
    with av.open(str(large), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 4000, 4000, "yuv420p"
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((4000, 4000, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for _ in range(2):
        with pytest.raises(UnreadableVideo, match=r"120 MiB of memory|Invalid data"):
            pool.probe(large, lambda count: [1])
        assert pool.probe(clip, lambda count: [1]).frames == 40


@pytest.mark.parametrize("codec", ["mjpeg", "ffv1"])
def test_a_clip_of_too_many_pixels_is_unreadable_and_says_its_size(tmp_path: Path, pool: ProbePool, codec: str) -> None:
    path = tmp_path / "wide.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1)
        stream.width, stream.height, stream.pix_fmt = 5000, 4000, {"mjpeg": "yuvj420p", "ffv1": "yuv420p"}[codec]
        frame = av.VideoFrame.from_ndarray(np.zeros((4000, 5000, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(UnreadableVideo, match="5000x4000 pixels; at most 16777216"):
        pool.probe(path, lambda count: [0])


@pytest.mark.parametrize("answer", ["[" * 1000, "{}", '{"info": {"frames": "many"}}', '"text"', '{"frames": []}', ""])
def test_an_answer_that_is_none_is_the_clips_fault(
    tmp_path: Path, pool: ProbePool, clip: Path, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nread line\necho '{answer}'\nread line\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(UnreadableVideo, match="twice"):
        pool.probe(clip, lambda count: [1])


def test_processes_have_no_secrets_and_leave_no_core(
    pool: ProbePool, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "secret")
    limits_of_processes: list[tuple[object, ...]] = []

    def look(count: int) -> list[int]:
        (process,) = processes()
        limits = [process.rlimit(limit) for limit in (psutil.RLIMIT_DATA, psutil.RLIMIT_CORE, psutil.RLIMIT_FSIZE)]
        limits_of_processes.append((process.environ().get("JUDGE_API_KEY"), *limits))
        return [1]

    pool.probe(clip, look)
    assert limits_of_processes == [(None, (MAX_BYTES, MAX_BYTES), (0, 0), (0, 0))]


def test_closing_the_pool_ends_its_processes_and_who_waits_for_one(pool: ProbePool, clip: Path) -> None:
    ended: list[psutil.Process] = []

    def close(count: int) -> list[int]:
        ended.extend(processes())
        pool.close()
        return [1]

    with pytest.raises(PoolClosed):
        pool.probe(clip, close)
    assert ended and not processes()
    with pytest.raises(PoolClosed):
        pool.probe(clip, lambda count: [1])


@pytest.mark.parametrize("busy", [False, True])
def test_processes_end_with_the_one_that_started_them(clip: Path, busy: bool) -> None:
    """Also in the middle of a clip, and however it ends."""
    program = f"""if True:
        import os, psutil, sys
        from training.data.video import probe

        def ask(count):
            if {busy}:
                print(*[child.pid for child in psutil.Process().children()], flush=True)
                os.kill(os.getpid(), 9)
            return [1]

        probe({str(clip)!r}, ask)
        print(*[child.pid for child in psutil.Process().children()], flush=True)
        os.kill(os.getpid(), 9)
    """
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == -signal.SIGKILL
    left = [psutil.Process(int(pid)) for pid in ended.stdout.split() if psutil.pid_exists(int(pid))]
    assert ended.stdout.split() and not psutil.wait_procs(left, PATIENCE)[1]


def test_a_forked_process_makes_a_new_pool(clip: Path) -> None:
    program = f"""if True:
        import os
        from training.data.video import probe
        probe({str(clip)!r})
        if os.fork() == 0:
            probe({str(clip)!r})
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
        assert probe({str(clip)!r}).frames == 40
    """
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE)


def hostile(clip: Path, atom: bytes, at: int, value: bytes) -> bytes:
    content = bytearray(clip.read_bytes())
    start = content.index(atom) + 4 + at
    content[start : start + len(value)] = value
    return bytes(content)


@pytest.mark.parametrize(
    ("atom", "at", "value"),
    [
        (b"stts", 8, b"\x7f\xff\xff\xff"),  # a table of so many samples
        (b"hdlr", 20, b"\xff\xfe\xfd\xfc"),  # a name that is not UTF-8
        (b"stsz", 8, b"\x7f\xff\xff\xff"),
        (b"tkhd", 76, b"\x7f\xff\xff\xff" * 2),
        (b"mdhd", 12, b"\0\0\0\0"),
        (b"avcC", 4, b"\xff" * 16),
    ],
)
def test_a_hostile_header_is_read_or_refused(
    tmp_path: Path, pool: ProbePool, clip: Path, atom: bytes, at: int, value: bytes
) -> None:
    path = tmp_path / "hostile.mp4"
    path.write_bytes(hostile(clip, atom, at, value))
    try:
        assert pool.probe(path, key_frame_pool).frames <= 40
    except UnreadableVideo as unreadable:
        assert "twice" not in str(unreadable)
    assert pool.probe(clip, key_frame_pool).frames == 40


def test_any_cut_of_a_file_is_read_or_refused(tmp_path: Path, pool: ProbePool, clip: Path) -> None:
    whole, path = clip.read_bytes(), tmp_path / "cut.mp4"
    for share in range(0, 100, 5):
        path.write_bytes(whole[: len(whole) * share // 100])
        with pytest.raises(UnreadableVideo):
            pool.probe(path, lambda count: [1])


@pytest.mark.parametrize("name", ["a\udcff.mp4", "x" * 255, "a\nb.mp4"])
def test_any_name_that_a_file_may_have_is_read(tmp_path: Path, pool: ProbePool, clip: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(clip.read_bytes())
    assert pool.probe(path, lambda count: [1]).frames == 40
