"""Clips on disk: how many frames they show, and their frames as RGB arrays.

A frame number always counts *displayed* frames from 0.  PyAV reads every clip: seeking where the probe has seen that
shows the same and saves work, else from the beginning.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from cachetools import FIFOCache

from training.data.decoding import UnreadableVideo as UnreadableVideo
from training.data.decoding import open_clip, read_by_seeking, read_sequentially
from training.data.keyframes import key_frame_pool
from training.data.probe_pool import shared_pool
from training.data.probing import Numbers
from training.data.probing import VideoInfo as VideoInfo

READERS = {"seek": read_by_seeking, "sequential": read_sequentially}


def probe(path: Path | str, numbers: Numbers = key_frame_pool) -> VideoInfo:
    """A clip's displayed frames and their reader, from decoding it in another process.

    `numbers(frame count)` are the frames that will be read.  Raises UnreadableVideo with a reason.
    """
    return shared_pool().probe(path, numbers)


def read_frames(path: Path | str, numbers: Sequence[int], reader: str) -> list[np.ndarray]:
    """The frames with these numbers, in this order (repeats allowed), each uint8 height x width x RGB, upright.

    `reader` is the one that `probe` recorded; the clip is read in this process.  Raises UnreadableVideo for a file it
    cannot read and ValueError for a number outside the clip.
    """
    if reader not in READERS:
        raise ValueError(f"reader must be one of {list(READERS)}; found {reader!r}")
    if not numbers:
        return []
    if min(numbers) < 0:
        raise ValueError(f"{path}: frame numbers count from 0; found {min(numbers)}")
    try:
        frames = READERS[reader](path, set(numbers))
    except UnreadableVideo as unreadable:
        raise UnreadableVideo(f"{path}: {unreadable}") from unreadable
    if missing := set(numbers) - set(frames):
        raise ValueError(f"{path} has fewer frames; frame {max(missing)} does not exist")
    return [frames[number] for number in numbers]


def frame_rate(path: Path | str) -> float:
    """A readable clip's frames per second, from its container.

    Raises UnreadableVideo where none is written: timestamps would be guesses.
    """
    with open_clip(path) as (_, stream):
        rate = stream.average_rate
    if not rate:
        raise UnreadableVideo(f"{path} has no frame rate, so its frames have no times: show it as images")
    return float(rate)


class FrameCache:
    """Reads frames through a cache of bounded size: prompts about one clip need not open it again."""

    def __init__(self, limit: int) -> None:
        self._kept: FIFOCache[str, np.ndarray] = FIFOCache(limit, getsizeof=lambda frame: frame.nbytes)

    def read(self, path: str, numbers: Sequence[int], reader: str) -> list[np.ndarray]:
        """As `read_frames`."""
        keys = {number: f"{reader} {path} {number}" for number in numbers}
        frames = {number: kept for number, key in keys.items() if (kept := self._kept.get(key)) is not None}
        missing = [number for number in keys if number not in frames]
        for number, frame in zip(missing, read_frames(path, missing, reader), strict=True):
            frames[number] = frame
            with suppress(ValueError):  # larger than the whole cache
                self._kept[keys[number]] = frame
        return [frames[number] for number in numbers]
