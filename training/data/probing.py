"""The probe of a clip: every frame is decoded once, in display order, in a process of its own (`probe_pool` says why).

The process reads requests from its input and answers each in a line of JSON, so that nothing but data comes back from
where untrusted files were decoded: {"path"} is answered by {"info"} or {"reason"}; before, it may ask by {"frames"}
which {"numbers"} will be read of a clip of so many.
"""

import json
import os
import queue
import resource
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from training.data.decoding import (
    PacketIndex,
    UnreadableVideo,
    displayed,
    open_clip,
    picture,
    read_by_seeking,
    rotation,
)

if TYPE_CHECKING:
    import numpy as np
    from av import Packet, VideoStream
    from av.container import InputContainer

MAX_PIXELS = 4096 * 4096
"""Of a frame: 5K video and less.  A decoder keeps some twenty frames, 0.5 GB of such, and twice that with 10 bits."""
MIN_SAVED_SHARE = 0.5
"""Of the frames decoded.  Seeking is compared with decoding, which costs one reading more, only where it saves that."""
MAX_MISSING_SECONDS, MAX_MISSING_SHARE = 0.5, 0.05
"""A file that is shorter than its header's duration by more than both bounds is incomplete."""
TRACK_DURATION, FILE_DURATION = ("mov", "mxf", "ivf"), ("matroska", "avi", "flv", "asf")
"""Containers whose header has a duration of the video track, or of the whole file; FFmpeg estimates it for others."""

MAX_REASON = 500
"""Characters."""

Numbers = Callable[[int], Collection[int]]
"""The numbers of the frames that will be read of a clip of so many frames."""


@dataclass(frozen=True)
class VideoInfo:
    """A readable clip: displayed frames, frames per second, and size in pixels as shown.

    reader: `seek` where that shows the frames that decoding from the beginning shows and saves work, else `sequential`.
    rotation: degrees by which its pictures are turned clockwise to be shown, as both readers do.
    header_seconds: the duration that its header states, None where it states none.
    """

    frames: int
    fps: float
    width: int
    height: int
    reader: str
    rotation: int
    header_seconds: float | None


def probe_clip(path: Path | str, numbers: Numbers) -> VideoInfo:
    """Decodes a clip, in this process.  Raises UnreadableVideo, or MemoryError."""
    with open_clip(path) as (container, stream):
        _check_size(stream.width, stream.height)
        ends: dict[int, float] = defaultdict(float)
        index = PacketIndex.of(packet for packet in _packets(container, ends) if packet.stream_index == stream.index)
        header_seconds = _header_seconds(container, stream, ends)
    compared = _compared(index, numbers)
    times: list[int | None] = []
    digests: dict[int, bytes] = {}
    with open_clip(path) as (container, stream):
        for frame in displayed(container, stream):
            _check_size(frame.width, frame.height)
            if not times:
                (height, width, _), turned = picture(frame).shape, rotation(frame)
            if len(times) in compared:
                digests[len(times)] = _digest(picture(frame))
            times.append(frame.pts)
        rate = float(stream.average_rate or 0)
    if not times:
        raise UnreadableVideo("no frame could be decoded")
    seeks = bool(compared) and times == index.times and _seeking_shows(path, digests)
    return VideoInfo(
        len(times), rate, width, height, "seek" if seeks else "sequential", turned, header_seconds
    )  # fmt: skip


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnreadableVideo(f"{width}x{height} pixels; at most {MAX_PIXELS} (4096x4096) are decoded")


def _packets(container: "InputContainer", ends: dict[int, float]) -> Iterator["Packet"]:
    """All packets of all streams; `ends` gets the second at which each stream ends."""
    for packet in container.demux():
        time = packet.dts if packet.pts is None else packet.pts
        if time is not None and packet.time_base:
            end = float((time + (packet.duration or 0)) * packet.time_base)
            ends[packet.stream_index] = max(ends[packet.stream_index], end)
        yield packet


def _header_seconds(container: "InputContainer", stream: "VideoStream", ends: dict[int, float]) -> float | None:
    """The duration that the header states.  Raises UnreadableVideo if the file ends well before."""
    names = container.format.name.split(",")
    if any(name in TRACK_DURATION for name in names):
        stated, end = float((stream.duration or 0) * stream.time_base), ends[stream.index]
    elif any(name in FILE_DURATION for name in names):
        stated, end = (container.duration or 0) / 1_000_000, max(ends.values(), default=0.0)
    else:
        return None
    if stated - end > max(MAX_MISSING_SECONDS, MAX_MISSING_SHARE * stated):
        raise UnreadableVideo(f"the file ends after {end:.1f} of the {stated:.1f} s that its header states")
    return stated or None


def _compared(index: PacketIndex, numbers: Numbers) -> Collection[int]:
    """The frames whose pictures are compared, none where seeking would not save enough."""
    wanted = set(numbers(len(index.times))) if len(index.keys) > 1 else set()
    if not wanted or index.decoded(wanted) > (1 - MIN_SAVED_SHARE) * (max(wanted) + 1):
        return ()
    return wanted


def _seeking_shows(path: Path | str, digests: dict[int, bytes]) -> bool:
    """Whether seeking shows the pictures that decoding from the beginning showed."""
    try:
        frames = read_by_seeking(path, digests)
    except UnreadableVideo:
        return False
    return {number: _digest(pixels) for number, pixels in frames.items()} == digests


def _digest(pixels: "np.ndarray") -> bytes:
    return blake2b(repr(pixels.shape).encode() + pixels.tobytes()).digest()


def main(max_bytes: int, seconds: int) -> None:
    """Answers requests until the input ends, which is when whoever started this process is gone or wants no more.

    max_bytes: of memory that may be allocated.  seconds: a clip's, after which SIGALRM ends the process.
    """
    import numpy  # noqa: F401 - before the limit, at which OpenBLAS would abort

    resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (0, 0))
    requests: queue.SimpleQueue[dict[str, object]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()

    def numbers(frames: int) -> Sequence[int]:
        _write({"frames": frames})
        return requests.get()["numbers"]  # type: ignore[return-value]

    while True:
        path = str(requests.get()["path"])
        signal.alarm(seconds)
        try:
            _write({"info": asdict(probe_clip(path, numbers))})
        except UnreadableVideo as unreadable:
            _write({"reason": str(unreadable)[:MAX_REASON]})
        except MemoryError:
            _write({"reason": f"it takes more than the {max_bytes >> 20} MiB of memory that a clip may"})
            return  # a fresh process goes on
        except Exception as error:
            _write({"reason": f"{type(error).__name__}: {error}"[:MAX_REASON]})
        signal.alarm(0)


def _read(requests: "queue.SimpleQueue[dict[str, object]]") -> None:
    for line in sys.stdin:
        requests.put(json.loads(line))
    os._exit(0)  # also in the middle of a clip


def _write(answer: dict[str, object]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
