"""Clips a second: the probe, and the reading of key frames, against decord, the reader that it replaced."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.footage import CLIPS, FOOTAGE
from tests.numbered import number_in, picture
from tests.performance.conftest import Compare
from training.data.keyframes import key_frame_pool
from training.data.probe_pool import PROCESSES
from training.data.video import probe, read_frames

FRAMES = 150
KINDS = ("real", "toy", "GOPs of 2 s", "MPEG-TS")


@pytest.fixture(scope="session")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Path]]:
    """Clips of 6 s and 720p by kind: what web videos are cut to, and what decord misreads."""
    folder, done = tmp_path_factory.mktemp("encoded"), dict[str, list[Path]]()

    def clips(kind: str) -> list[Path]:
        if kind not in done:
            done[kind] = [folder / f"clip.{'ts' if kind == 'MPEG-TS' else 'mp4'}"]
            options = {"preset": "veryfast", "g": "50", "bf": "2"}
            with av.open(str(done[kind][0]), "w") as container:
                stream = container.add_stream("libx264", rate=25, options=options)
                stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
                for number in range(FRAMES):
                    frame = av.VideoFrame.from_ndarray(picture(number, 1280, 720), format="rgb24")
                    container.mux(stream.encode(frame))
                container.mux(stream.encode())
        return done[kind]

    return clips


@pytest.fixture
def clips(kind: str, rows: list[dict[str, Any]], encoded: Callable[[str], list[Path]]) -> list[Path]:
    if kind == "real":
        return [FOOTAGE / name for name in CLIPS]
    return [Path(row["path"]) for row in rows] if kind == "toy" else encoded(kind)


def probe_by_decord(path: Path) -> int:
    """Displayed frames by the container, with the first and the last key frame read: nothing else is decoded."""
    import decord

    with av.open(str(path)) as container:
        displayed = sum(p.size > 0 and not p.is_discard for p in container.demux(container.streams.video[0]))
    video = decord.VideoReader(str(path), num_threads=1)
    assert len(video) == displayed
    pool = key_frame_pool(displayed)
    video.get_batch([pool[0], pool[-1]])
    return displayed


def assert_equal(clips: list[list[np.ndarray]], others: list[list[np.ndarray]]) -> None:
    for clip, other in zip(clips, others, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(clip, other, strict=True))


def read_by_decord(path: Path, numbers: Sequence[int]) -> list[np.ndarray]:
    import decord

    return list(decord.VideoReader(str(path), num_threads=1).get_batch(numbers).asnumpy())


@pytest.mark.parametrize("kind", KINDS)
def test_probing_against_decord(kind: str, clips: list[Path], compare: Compare) -> None:
    with ThreadPoolExecutor(PROCESSES) as threads:
        infos, frames = compare(
            f"probe of {kind} clips, all frames decoded against two by decord",
            lambda: list(threads.map(probe, clips)), lambda: list(threads.map(probe_by_decord, clips)), len(clips),
        )  # fmt: skip
    assert [info.frames for info in infos] == frames


@pytest.mark.parametrize("kind", KINDS)
def test_reading_key_frames_against_decord(kind: str, clips: list[Path], compare: Compare) -> None:
    pools = [(path, info.reader, key_frame_pool(info.frames)) for path in clips for info in [probe(path)]]

    def read() -> list[list[np.ndarray]]:
        return [read_frames(path, pool, reader) for path, reader, pool in pools]

    def by_decord() -> list[list[np.ndarray]]:
        return [read_by_decord(path, pool) for path, _, pool in pools]

    theirs, ours = compare(f"key frames of {kind} clips, decord against PyAV", by_decord, read, len(pools))
    if kind == "MPEG-TS":
        ((_, _, pool),) = pools
        assert [number_in(pixels) for pixels in ours[0]] == pool
        assert [number_in(pixels) for pixels in theirs[0]] != pool
    else:
        assert_equal(theirs, ours)


@pytest.mark.parametrize("kind", ["GOPs of 2 s"])
def test_seeking_against_decoding_from_the_beginning(kind: str, clips: list[Path], compare: Compare) -> None:
    pools = {path: key_frame_pool(FRAMES) for path in clips}

    def read(reader: str) -> list[list[np.ndarray]]:
        return [read_frames(path, pool, reader) for path, pool in pools.items()]

    assert_equal(*compare(
        f"key frames of {kind} clips, from the beginning against by seeking",
        lambda: read("sequential"), lambda: read("seek"), len(clips),
    ))  # fmt: skip
