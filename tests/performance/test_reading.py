"""Reading a clip's key frames with either reader, from real footage and from the toy world's short clips."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.footage import CLIPS, FOOTAGE
from tests.performance.conftest import Compare
from training.data.keyframes import key_frame_pool
from training.data.video import read_frames


@pytest.mark.parametrize("kind", ["real", "toy"])
def test_key_frames_by_pyav_against_decord(kind: str, rows: list[dict[str, Any]], compare: Compare) -> None:
    real = {FOOTAGE / name: frames for name, frames in CLIPS.items()}
    clips = real if kind == "real" else {Path(row["path"]): row["frame_count"] for row in rows}

    def read(reader: str) -> list[list[np.ndarray]]:
        return [read_frames(path, key_frame_pool(frames), reader) for path, frames in clips.items()]

    for one, other in zip(read("pyav"), read("decord"), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    compare(
        f"key frames of {kind} clips, PyAV against decord", lambda: read("pyav"), lambda: read("decord"), len(clips)
    )


def test_key_frames_by_seek_against_decoding_the_clip(compare: Compare) -> None:
    clips = {FOOTAGE / name: frames for name, frames in CLIPS.items()}

    def whole() -> list[list[np.ndarray]]:
        read = [(read_frames(path, range(frames), "decord"), frames) for path, frames in clips.items()]
        return [[shown[number] for number in key_frame_pool(frames)] for shown, frames in read]

    def seek() -> list[list[np.ndarray]]:
        return [read_frames(path, key_frame_pool(frames), "decord") for path, frames in clips.items()]

    for one, other in zip(whole(), seek(), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    compare("key frames of real clips, decoding the clip against seeking", whole, seek, len(clips))
