"""Clips on disk: how many frames they show, their frames as RGB arrays, and where a row's clip name leads.

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
from training.data.rejection import RejectedRow

READERS = {"seek": read_by_seeking, "sequential": read_sequentially}
MAX_NAME_BYTES = 1024
"""Of a clip's whole name; its root comes before it, and file systems take 4,096."""


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


def check_clip_name(name: str) -> None:
    """Raises RejectedRow for a name that no file system takes."""
    parts = [part.encode(errors="replace") for part in name.split("/")]
    if not name.strip() or "\0" in name or max(map(len, parts)) > 255 or sum(map(len, parts)) > MAX_NAME_BYTES:
        raise RejectedRow("malformed clip name", repr(name[:80]))


def resolve_clip(name: str, roots: Sequence[Path]) -> Path:
    """The clip file that a row names, inside one of `roots` (searched in order).

    Raises RejectedRow: names come from untrusted rows, so a path that leaves its root, by `..`, by being absolute or
    through a link, is rejected even where such a file exists.
    """
    check_clip_name(name)
    inside = False
    for root in (Path(root).resolve() for root in roots if not Path(name).is_absolute()):
        try:
            candidate = (root / name).resolve()
            if not candidate.is_relative_to(root):
                continue
            inside = True
            if candidate.is_file():
                return candidate
        except (OSError, RuntimeError, UnicodeError) as error:  # links in a circle, a name beyond the file system's
            raise RejectedRow("malformed clip name", f"{name[:80]!r}: {error}") from error
    if not inside:
        raise RejectedRow("path outside clip root", repr(name))
    raise RejectedRow("missing clip", f"{name!r} is in none of the {len(roots)} clip roots")
