"""Clips on disk: how many frames they show, their frames as RGB arrays, and where a row's clip name leads.

decord is the default reader.  Stream-copied cuts carry hidden pre-roll packets that decord counts as frames, or cannot
be read by it at all; those go to PyAV, and the reader that worked is recorded.  A frame number always counts
*displayed* frames from 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.bounded import BoundedCache
from training.data.keyframes import key_frame_pool
from training.data.rejection import RejectedRow

READERS = ("decord", "pyav")
MAX_NAME_BYTES = 1024
"""Of a clip's whole name; its root comes before it, and file systems take 4,096."""


class UnreadableVideo(ValueError):  # noqa: N818 - a file's state, quarantined like a row
    """A file that neither reader can show as a video, with what each of them said."""


@dataclass(frozen=True)
class VideoInfo:
    """A readable clip: displayed frames, frames per second, size in pixels, and the reader (`decord` or `pyav`)."""

    frames: int
    fps: float
    width: int
    height: int
    reader: str


def probe(path: Path | str) -> VideoInfo:
    """What a clip shows, and which reader shows it; both ends of its key frames have been read.

    Raises UnreadableVideo with a reason.
    """
    try:
        return _probe_decord(path)
    except UnreadableVideo as decord_failure:
        try:
            return _probe_pyav(path)
        except UnreadableVideo as pyav_failure:
            raise UnreadableVideo(f"decord: {decord_failure}; PyAV: {pyav_failure}") from pyav_failure


def read_frames(path: Path | str, numbers: Sequence[int], reader: str) -> list[np.ndarray]:
    """The frames with these numbers, in this order (repeats allowed), each uint8 height x width x RGB.

    `reader` is the one that `probe` recorded.  Raises UnreadableVideo for a file it cannot read and ValueError for a
    number outside the clip.
    """
    if reader not in READERS:
        raise ValueError(f"reader must be one of {READERS}; found {reader!r}")
    if not numbers:
        return []
    if min(numbers) < 0:
        raise ValueError(f"{path}: frame numbers count from 0; found {min(numbers)}")
    wanted = sorted(set(numbers))
    frames = _read_decord(path, wanted) if reader == "decord" else _read_pyav(path, wanted)
    return [frames[number] for number in numbers]


def frame_rate(path: Path | str) -> float:
    """A readable clip's frames per second, from its container.

    Raises UnreadableVideo where none is written: timestamps would be guesses.
    """
    import av

    try:
        with av.open(str(path)) as container:
            rate = container.streams.video[0].average_rate
    except av.FFmpegError as error:
        raise UnreadableVideo(f"{path}: {_first_line(error)}") from error
    if not rate:
        raise UnreadableVideo(f"{path} has no frame rate, so its frames have no times: show it as images")
    return float(rate)


class FrameShelf:
    """Reads frames and keeps the latest within a bound: prompts about one clip need not open it again."""

    def __init__(self, limit: int) -> None:
        self._kept: BoundedCache[np.ndarray] = BoundedCache(limit)

    def read(self, path: str, numbers: Sequence[int], reader: str) -> list[np.ndarray]:
        """As `read_frames`."""
        keys = {number: f"{reader} {path} {number}" for number in numbers}
        found = {number: kept for number, key in keys.items() if (kept := self._kept.get(key)) is not None}
        missing = [number for number in keys if number not in found]
        for number, frame in zip(missing, read_frames(path, missing, reader), strict=True):
            found[number] = frame
            self._kept.put(keys[number], frame, frame.nbytes)
        return [found[number] for number in numbers]


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


def _probe_decord(path: Path | str) -> VideoInfo:
    import decord

    displayed = _displayed_packets(path)
    try:
        video = decord.VideoReader(str(path), num_threads=1)
        frames, fps = len(video), float(video.get_avg_fps())
        if frames != displayed:  # hidden pre-roll: decord would number frames that are never shown
            raise UnreadableVideo(f"counts {frames} frames where {displayed} are displayed")
        pool = key_frame_pool(frames)
        height, width, _ = video.get_batch([pool[0], pool[-1]]).shape[1:]
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise UnreadableVideo(_first_line(error)) from error
    return VideoInfo(frames, fps, width, height, "decord")


def _displayed_packets(path: Path | str) -> int:
    """Frames that the container says are shown: video packets less those that its edit list hides (no decoding)."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UnreadableVideo("no video stream")
            return sum(p.size > 0 and not p.is_discard for p in container.demux(container.streams.video[0]))
    except av.FFmpegError as error:
        raise UnreadableVideo(_first_line(error)) from error


def _probe_pyav(path: Path | str) -> VideoInfo:
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UnreadableVideo("no video stream")
            stream = container.streams.video[0]
            frames = sum(1 for _ in container.decode(stream))
            rate, width, height = stream.average_rate, stream.width, stream.height
    except av.FFmpegError as error:
        raise UnreadableVideo(_first_line(error)) from error
    if not frames:
        raise UnreadableVideo("no frame could be decoded")
    return VideoInfo(frames, float(rate or 0), width, height, "pyav")


def _read_decord(path: Path | str, wanted: list[int]) -> dict[int, np.ndarray]:
    import decord

    try:
        video = decord.VideoReader(str(path), num_threads=1)
        if wanted[-1] < len(video):
            return dict(zip(wanted, video.get_batch(wanted).asnumpy(), strict=True))
    except (decord.DECORDError, RuntimeError) as error:
        raise UnreadableVideo(f"{path}: {_first_line(error)}") from error
    raise ValueError(f"{path} has {len(video)} frames; frame {wanted[-1]} does not exist")


def _read_pyav(path: Path | str, wanted: list[int]) -> dict[int, np.ndarray]:
    import av

    frames: dict[int, np.ndarray] = {}
    remaining, count = set(wanted), 0
    try:
        with av.open(str(path)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                count = number + 1
                if number in remaining:
                    frames[number] = frame.to_ndarray(format="rgb24")
                    remaining.remove(number)
                if not remaining:
                    return frames
    except av.FFmpegError as error:
        raise UnreadableVideo(f"{path}: {_first_line(error)}") from error
    raise ValueError(f"{path} has {count} frames; frame {max(remaining)} does not exist")


def _first_line(error: Exception) -> str:
    """The first line of a reader's message (decord appends a native stack trace)."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
