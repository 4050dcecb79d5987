"""Decoding clips with PyAV: the pictures that a player shows of a file's best video stream, in display order, upright.

Files are untrusted.  FFmpeg opens this one file and nothing that it names, and reads containers only that hold their
pictures themselves, no playlists.
"""

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from av import Packet, VideoFrame, VideoStream
    from av.container import InputContainer

CONTAINERS = (
    "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,obu,ivf,flv,asf,ogg,mxf,nut,gif,"
    "image2,png_pipe,apng,jpeg_pipe,webp_pipe,bmp_pipe,tiff_pipe"
)
OPTIONS = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file", "pattern_type": "none"}
"""`pattern_type`: else image2 takes `%03d` in a picture's name for a number, and opens another file."""
DEFAULT_STREAM_PIXELS = 5_000_000
"""FFmpeg's bonus, when it chooses a stream, for the one that the file marks as its default."""


class UnreadableVideo(ValueError):  # noqa: N818 - a file's state, quarantined like a row
    """A file that cannot be shown as a video, with the reason."""


@contextmanager
def open_clip(path: Path | str) -> Iterator[tuple["InputContainer", "VideoStream"]]:
    """The container and its best video stream, decoded in one thread.

    Whatever goes wrong while it is open, out of memory excepted, is raised as UnreadableVideo.
    """
    import av

    try:
        # "file:" keeps colons and dashes of a name from being a protocol's; names in the file need not be UTF-8.
        with av.open(f"file:{path}", metadata_errors="replace", container_options=OPTIONS) as container:
            stream = _best_stream(container)
            stream.codec_context.thread_count = 1
            yield container, stream
    except (UnreadableVideo, MemoryError):
        raise
    except Exception as error:
        raise UnreadableVideo(f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}") from error


def displayed(container: "InputContainer", stream: "VideoStream") -> Iterator["VideoFrame"]:
    """The frames that are shown, in display order, from where the container stands.

    Packets that cannot be decoded are passed over before the first key frame, where a recording begins in the middle of
    a group of pictures; later, one raises what PyAV raises.
    """
    import av

    begun = False
    for packet in container.demux(stream):
        begun = begun or packet.is_keyframe
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            if begun:
                raise


def picture(frame: "VideoFrame") -> "np.ndarray":
    """A frame as it is shown: uint8 height x width x RGB, turned and mirrored as the file says."""
    pixels = frame.to_ndarray(format="rgb24", **_single_thread())
    a, b, c, d = _orientation(frame)
    if abs(a) + abs(d) < abs(b) + abs(c):
        pixels = pixels.transpose(1, 0, 2)
        a, d = c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1].copy()


@cache
def _single_thread() -> dict[str, int]:
    """The option of PyAV 17 and later, which else starts a thread for each core, for each frame; before there is one
    thread and no option (lmms-eval wants av<16)."""
    import av

    return {"threads": 1} if int(av.__version__.partition(".")[0]) >= 17 else {}


def rotation(frame: "VideoFrame") -> int:
    """Degrees, 0, 90, 180 or 270, by which a frame is turned clockwise to be shown."""
    a, b, _, _ = _orientation(frame)
    return round(math.degrees(math.atan2(b, a)) / 90) * 90 % 360


def _orientation(frame: "VideoFrame") -> tuple[int, int, int, int]:
    """a, b, c, d of the display matrix, which shows pixel (x, y) at (a x + c y, b x + d y)."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 1, 0, 0, 1
    values = memoryview(bytes(matrix)).cast("i")
    return values[0], values[1], values[3], values[4]


def _best_stream(container: "InputContainer") -> "VideoStream":
    """The stream that ffmpeg chooses: the largest, with a bonus for the file's default; never a cover picture."""
    from av.stream import Disposition

    cover = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [s for s in container.streams.video if s.codec_context is not None and not s.disposition & cover]
    if not streams:
        raise UnreadableVideo("no video stream that can be decoded")
    bonus = {True: DEFAULT_STREAM_PIXELS, False: 0}
    return max(streams, key=lambda s: s.width * s.height + bonus[Disposition.default in s.disposition])


@dataclass(frozen=True)
class PacketIndex:
    """A container's frames, without decoding: the time stamps of those that are displayed, in that order, and of key
    frames, from which decoding can begin."""

    times: Sequence[int]
    keys: Sequence[int]

    @classmethod
    def of(cls, packets: Iterable["Packet"]) -> "PacketIndex":
        """Both are empty where there is no seeking: a time stamp is missing, two frames have the same, or the first
        frame comes before the first key frame."""
        listed = [(p.pts, p.is_keyframe, p.is_discard) for p in packets if p.size]
        times = sorted(pts for pts, _, hidden in listed if pts is not None and not hidden)
        keys = sorted(pts for pts, is_key, _ in listed if pts is not None and is_key)
        whole = all(pts is not None for pts, _, _ in listed) and len(set(times)) == len(times)
        return cls(times, keys) if whole and times and keys and keys[0] <= times[0] else cls((), ())

    def runs(self, numbers: Collection[int]) -> Mapping[int, list[int]]:
        """The frames' numbers by the key frame from which they are decoded, both ascending."""
        runs: dict[int, list[int]] = defaultdict(list)
        for number in sorted(numbers):
            runs[self.keys[bisect_right(self.keys, self.times[number]) - 1]].append(number)
        return runs

    def decoded(self, numbers: Collection[int]) -> int:
        """The number of frames that are decoded to show these by seeking."""
        return sum(run[-1] + 1 - bisect_left(self.times, key) for key, run in self.runs(numbers).items())


def read_sequentially(path: Path | str, wanted: Collection[int]) -> dict[int, "np.ndarray"]:
    """The frames with these numbers, decoded from the beginning; those beyond the last frame are missing."""
    frames: dict[int, np.ndarray] = {}
    with open_clip(path) as (container, stream):
        for number, frame in enumerate(displayed(container, stream)):
            if number in wanted:
                frames[number] = picture(frame)
                if len(frames) == len(wanted):
                    break
    return frames


def read_by_seeking(path: Path | str, wanted: Collection[int]) -> dict[int, "np.ndarray"]:
    """The same, decoded from the key frame before each on, by time stamp."""
    frames: dict[int, np.ndarray] = {}
    with open_clip(path) as (container, stream):
        index = PacketIndex.of(container.demux(stream))
        for key, numbers in index.runs([n for n in wanted if n < len(index.times)]).items():
            container.seek(key, stream=stream)
            by_time = {index.times[number]: number for number in numbers}
            for frame in displayed(container, stream):
                if frame.pts in by_time:
                    frames[by_time.pop(frame.pts)] = picture(frame)
                if not by_time:
                    break
            if by_time:
                raise UnreadableVideo(f"frames {sorted(by_time.values())} are not where the container says")
    return frames
