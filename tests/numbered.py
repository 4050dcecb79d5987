"""Clips whose frames say their own number: eight bars, one for each bit, and a red corner at the upper left."""

import struct
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer

WIDTH, HEIGHT = 192, 128


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """uint8 height x width x RGB."""
    pixels = np.full((height, width, 3), 60, np.uint8)
    for bit in range(8):
        bar = slice(bit * width // 8, (bit + 1) * width // 8)
        pixels[height // 4 : height // 2, bar] = 235 if number >> (7 - bit) & 1 else 16
    pixels[: height // 8, : width // 8] = (250, 20, 20)
    return pixels


def number_in(pixels: np.ndarray) -> int:
    """The number that a picture says, of whatever size it is by now."""
    height = len(pixels)
    middle = pixels[height * 5 // 16 : height * 7 // 16].mean((0, 2))
    return int(
        "".join(str(int(bar[len(bar) // 4 : -len(bar) // 4].mean() > 128)) for bar in np.array_split(middle, 8)), 2
    )


def red_corner(pixels: np.ndarray) -> str:
    """Where the red corner is: `upper left` where nothing was turned."""
    corners = {"upper left": (4, 4), "upper right": (4, -4), "lower left": (-4, 4), "lower right": (-4, -4)}
    (corner,) = (name for name, at in corners.items() if pixels[at][0] > 180 and pixels[at][1] < 90)
    return corner


def write_clip(
    path: Path,
    frames: int = 40,
    codec: str = "libx264",
    options: Mapping[str, str] | None = None,
    times: Sequence[int] | None = None,
    pixel_format: str = "yuv420p",
    muxing: Mapping[str, str] | None = None,
    rate: int = 25,
    audio_seconds: int = 0,
) -> Path:
    """A clip of frames 0, 1, ...; `times` in milliseconds, where they are not even."""
    with av.open(str(path), "w", options=dict(muxing or {})) as container:
        audio = container.add_stream("aac", rate=16000, layout="mono") if audio_seconds else None
        stream = container.add_stream(codec, rate=rate, options=dict(options or {}))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        if audio:
            _silence(container, audio, audio_seconds)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def cut(source: Path, path: Path, keys: int, hidden: bool = False) -> Path:
    """The clip from its key frame number `keys` on (from 0), copied as it is encoded; with `hidden` the packets before
    stay, at negative times, which are not shown."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size]
        first = [place for place, packet in enumerate(packets) if packet.is_keyframe][keys]
        start = packets[first]
        begin, shift = (start.pts, start.pts) if hidden else (start.dts, start.dts)
        for packet in packets if hidden else packets[first:]:
            packet.pts, packet.dts, packet.stream = packet.pts - begin, packet.dts - shift, stream
            new.mux(packet)
    return path


def turned(source: Path, path: Path, matrix: Sequence[int]) -> Path:
    """The MP4 clip with another display matrix in its track's header, as phones write it: a, b, c, d of it."""
    content = bytearray(source.read_bytes())
    header = content.index(b"tkhd") + 4
    start = header + 4 + (32 if content[header] else 20) + 16
    a, b, c, d = (value << 16 for value in matrix)
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def _silence(container: OutputContainer, stream: av.AudioStream, seconds: int) -> None:
    for block in range(seconds * 16000 // 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, block * 1024
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
