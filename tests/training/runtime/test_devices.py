"""A device is one program's, however the program was started, until the last of its processes has ended."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from training.runtime import devices as locks
from training.runtime.devices import CLAIMED, VISIBLE, Claim, TooFewDevicesError, try_claim, visible

ROOT = Path(__file__).parents[3]
HOLDER = """
import sys
from training.runtime.devices import process_device
with process_device(print) as name:
    print(name, flush=True)
    sys.stdin.read()
"""
PROGRAM = """
import os
from training.runtime.programs import ProgramConfig, run_program

def main(config, reporter):
    return {name: os.environ.get(name) for name in ("FUTURE_L1_DEVICES", "CUDA_VISIBLE_DEVICES")}

run_program(ProgramConfig, main)
"""


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks in a folder of the test's own, and an nvidia-smi that lists three GPUs."""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nprintf 'GPU-aa\\nGPU-ab\\nGPU-ba\\n'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in (CLAIMED, VISIBLE, "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def claimed(names: Sequence[str], count: int) -> Claim:
    claim = try_claim(names, count)
    assert claim is not None
    return claim


class Holder:
    """A process that holds its own device until it is let go."""

    def __init__(self, descriptors: Sequence[int] = (), **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER],
            cwd=ROOT,
            env={**os.environ, **environment},
            pass_fds=descriptors,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def sentence(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def let_go(self) -> str:
        return self.process.communicate(timeout=60)[1]


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (None, ("GPU-aa", "GPU-ab", "GPU-ba")),
        ("", ()),
        ("-1", ()),
        ("2,0", ("GPU-ba", "GPU-aa")),
        ("0,7,1", ("GPU-aa",)),
        ("GPU-ab", ("GPU-ab",)),
        ("GPU-b,GPU-a", ("GPU-ba",)),  # the second is ambiguous
        ("MIG-5c8e", ("MIG-5c8e",)),
    ],
)
def test_cuda_visible_devices_are_read_as_cuda_does(
    variable: str | None, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is not None:
        monkeypatch.setenv(VISIBLE, variable)
    assert visible() == expected


@pytest.mark.parametrize("script", [None, "#!/bin/sh\necho 'no devices were found'\nexit 6\n"])
def test_a_machine_without_gpus_has_none(script: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "nvidia-smi").unlink()
    if script:
        (tmp_path / "nvidia-smi").write_text(script)
        (tmp_path / "nvidia-smi").chmod(0o755)
    assert visible() == ()


def test_a_device_is_claimed_once_and_all_or_none() -> None:
    with claimed(["a", "b"], 1) as _:
        assert try_claim(["a", "b"], 2) is None
        with claimed(["a", "b"], 1):
            assert try_claim(["a", "b"], 1) is None
    with claimed(["a", "b"], 2):
        pass


def test_what_never_can_be_had_is_an_error() -> None:
    with pytest.raises(TooFewDevicesError, match=r"3 processes need a device each, and there are 2 \(a, b\)"):
        try_claim(["a", "b"], 3)


def test_of_many_claims_at_once_each_gets_another_device() -> None:
    got: list[Claim | None] = []
    threads = [threading.Thread(target=lambda: got.append(try_claim("abcdef", 2))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    claims = [claim for claim in got if claim is not None]
    assert sorted(name for claim in claims for name in claim.names) == list("abcdef")
    for claim in claims:
        with claim:
            pass


def test_an_inherited_claim_lasts_as_long_as_the_last_process() -> None:
    claim = claimed(["a", "b"], 2)
    with claim:
        leader = Holder(claim.descriptors, **claim.environment)
        rank = Holder(LOCAL_RANK="1", **claim.environment)
        assert [leader.sentence(), rank.sentence()] == ["a", "b"]
    assert try_claim(["a"], 1) is None and try_claim(["b"], 1) is None
    leader.process.kill()
    leader.process.communicate()
    with claimed(["a"], 1):
        assert try_claim(["b"], 1) is None
    rank.let_go()
    with claimed(["a", "b"], 2):
        pass


def test_programs_started_by_hand_take_free_devices_and_wait_when_there_are_none() -> None:
    holders = [Holder() for _ in range(3)]
    assert {holder.sentence() for holder in holders} == set(visible())
    late = Holder()
    assert late.sentence() == "waiting until 1 of GPU-aa, GPU-ab, GPU-ba is free"
    freed, *others = holders
    freed.process.kill()
    freed.process.communicate()
    assert late.sentence() in visible()
    for holder in (late, *others):
        assert holder.let_go() == ""


def test_processes_that_torchrun_started_by_hand_do_not_wait_for_each_other() -> None:
    first, second = Holder(LOCAL_RANK="0"), Holder(LOCAL_RANK="1")
    assert [first.sentence(), second.sentence()] == ["GPU-aa", "GPU-ab"]
    assert "another program works on GPU-aa" in Holder(LOCAL_RANK="0").let_go()
    assert "4 processes need a device each" in Holder(LOCAL_RANK="3").let_go()
    for holder in (first, second):
        holder.let_go()


def test_a_program_sees_the_device_that_it_holds(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"out": str(tmp_path / "out")}))
    command = [sys.executable, "-c", PROGRAM, "--config", str(tmp_path / "config.json")]
    with claimed(["GPU-aa"], 1):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert " on GPU-ab in " in done.stdout
    environment_ = json.loads((tmp_path / "out" / "result.json").read_text())
    assert environment_ == {CLAIMED: None, VISIBLE: "GPU-ab"}


def test_another_users_lock_file_is_opened_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a sticky /tmp the kernel forbids O_CREAT on another's file; and whatever the umask, others may open ours."""
    before = os.umask(0o077)
    try:
        with claimed(["a"], 1):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "future-l1-a.lock").stat().st_mode & 0o777 == 0o644
    opened: list[int] = []
    really = os.open
    monkeypatch.setattr(
        locks.os, "open", lambda path, flags, *mode: (opened.append(flags), really(path, flags, *mode))[1]
    )
    with claimed(["a"], 1):
        pass
    assert opened and not any(flags & os.O_CREAT for flags in opened)
