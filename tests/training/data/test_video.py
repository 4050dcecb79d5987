"""Reading clips: real footage, hidden pre-roll, broken files, and where a row's clip name may lead."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.footage import FOOTAGE
from training.data.clip_names import resolve_clip
from training.data.keyframes import key_frame_pool
from training.data.rejection import RejectedRow
from training.data.video import UnreadableVideo, VideoInfo, frame_rate, probe, read_frames

REAL = {
    "bigbuckbunny.mp4": VideoInfo(132, 25.0, 1280, 720, "sequential", 0, pytest.approx(5.28)),
    "bikes.mp4": VideoInfo(250, 25.0, 640, 272, "sequential", 0, pytest.approx(10.0)),
    "carphone_distorted.mp4": VideoInfo(
        120, pytest.approx(29.97, abs=0.01), 176, 144, "sequential", 0, pytest.approx(4.004)
    ),
    "carphone_pristine.mp4": VideoInfo(
        120, pytest.approx(29.97, abs=0.01), 176, 144, "sequential", 0, pytest.approx(4.004)
    ),
}


def write_clip(path: Path, frames: int = 24) -> Path:
    """A grey clip whose frame i has brightness 10 * i, with key frames 12 apart."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "8", "g": "12", "bf": "0"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 10 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def cut_without_reencoding(source: Path, path: Path, hidden: int) -> Path:
    """The clip from frame `hidden` on, stream-copied: the frames before stay in the file, marked as not shown."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.dts is not None]
        start = sorted(packet.pts for packet in packets)[hidden]
        for packet in packets:
            packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, stream
            new.mux(packet)
    return path


@pytest.mark.parametrize(("name", "info"), REAL.items())
def test_real_footage_is_probed(name: str, info: VideoInfo) -> None:
    assert probe(FOOTAGE / name) == info
    assert frame_rate(FOOTAGE / name) == info.fps


@pytest.mark.parametrize(("name", "info"), REAL.items())
def test_both_readers_show_the_same_key_frames_of_real_footage(name: str, info: VideoInfo) -> None:
    numbers = key_frame_pool(info.frames)
    sought, decoded = (read_frames(FOOTAGE / name, numbers, reader) for reader in ("seek", "sequential"))
    assert sought[0].shape == (info.height, info.width, 3) and sought[0].dtype == np.uint8
    assert all(np.array_equal(a, b) for a, b in zip(sought, decoded, strict=True))
    assert not np.array_equal(sought[0], sought[7])


@pytest.mark.parametrize("reader", ["seek", "sequential"])
def test_frames_come_in_the_requested_order_with_repeats(tmp_path: Path, reader: str) -> None:
    frames = read_frames(write_clip(tmp_path / "clip.mp4"), [7, 2, 7, 0], reader)
    assert [round(float(f.mean()) / 10) for f in frames] == [7, 2, 7, 0]


@pytest.mark.parametrize("reader", ["seek", "sequential"])
@pytest.mark.parametrize("number", [-1, 24, 400])
def test_a_frame_outside_the_clip_is_an_error(tmp_path: Path, reader: str, number: int) -> None:
    with pytest.raises(ValueError, match=str(number)):
        read_frames(write_clip(tmp_path / "clip.mp4"), [3, number], reader)


def test_hidden_pre_roll_is_not_counted(tmp_path: Path) -> None:
    cut = cut_without_reencoding(write_clip(tmp_path / "full.mp4"), tmp_path / "cut.mp4", hidden=5)
    info = probe(cut)
    assert info.frames == 19
    frames = read_frames(cut, [0, 18], info.reader)
    assert [round(float(f.mean()) / 10) for f in frames] == [5, 23]


def test_a_file_that_is_no_video_is_unreadable(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mp4").read_bytes()
    broken = {"empty": b"", "page": b"<html>not found</html>", "cut short": whole[: len(whole) // 2]}
    for name, content in broken.items():
        path = tmp_path / f"{name}.mp4"
        path.write_bytes(content)
        with pytest.raises(UnreadableVideo):
            probe(path)


def test_a_container_whose_frames_cannot_be_decoded_is_unreadable(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4")
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    content[start : content.index(b"moov") - 4] = b"\x5a" * (content.index(b"moov") - 4 - start)
    path.write_bytes(content)
    with pytest.raises(UnreadableVideo):
        probe(path)


def test_a_clip_without_a_frame_rate_has_no_timestamps(tmp_path: Path) -> None:
    path = tmp_path / "still.mkv"
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 64, "yuvj420p", Fraction(1, 1000)
    frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24").reformat(format="yuvj420p")
    with av.open(str(path), "w") as container:
        stream = container.add_mux_stream("mjpeg", width=64, height=64, time_base=encoder.time_base)
        for packet in encoder.encode(frame) + encoder.encode(None):
            packet.pts, packet.stream = 0, stream
            container.mux(packet)
    with pytest.raises(UnreadableVideo, match="no frame rate"):
        frame_rate(path)


def test_a_clip_name_resolves_in_the_first_root_that_has_it(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    (second / "part").mkdir(parents=True)
    first.mkdir()
    clip = second / "part" / "a.mp4"
    clip.touch()
    assert resolve_clip("part/a.mp4", [first, second]) == clip.resolve()
    assert resolve_clip("part/../part/a.mp4", [first, second]) == clip.resolve()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../secret.mp4", "path outside clip root"),
        ("a/../../secret.mp4", "path outside clip root"),
        ("/etc/passwd", "path outside clip root"),
        ("link.mp4", "path outside clip root"),
        ("absent.mp4", "missing clip"),
        (".", "missing clip"),
        ("", "malformed clip name"),
        ("a\0.mp4", "malformed clip name"),
        ("x" * 300, "malformed clip name"),
        ("a/" * 3000, "malformed clip name"),
        ("a/" * 400 + "b", "missing clip"),
        ("\ud83d.mp4", "malformed clip name"),
        ("circle.mp4", "malformed clip name"),
    ],
)
def test_a_name_that_leads_nowhere_or_out_of_the_root_is_rejected(tmp_path: Path, name: str, reason: str) -> None:
    root = tmp_path / "clips"
    root.mkdir()
    (tmp_path / "secret.mp4").touch()
    (root / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (root / "circle.mp4").symlink_to(root / "circle.mp4")
    with pytest.raises(RejectedRow) as caught:
        resolve_clip(name, [root])
    assert caught.value.reason == reason


def test_an_absolute_name_is_rejected_though_it_lies_in_the_root(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    with pytest.raises(RejectedRow, match="path outside clip root"):
        resolve_clip(str(tmp_path / "a.mp4"), [tmp_path])
