"""Displayed frame k is picture k: codecs, containers, kinds of GOPs, cuts, rotation, streams; read back from pixels."""

from collections.abc import Mapping
from pathlib import Path

import av
import numpy as np
import pytest

from tests.numbered import HEIGHT, WIDTH, cut, number_in, picture, red_corner, turned, write_clip
from training.data.decoding import read_sequentially
from training.data.keyframes import key_frame_pool
from training.data.probing import VideoInfo
from training.data.video import UnreadableVideo, frame_rate, probe, read_frames

FRAMES = 96
"""With key frames six apart, seeking to eight of them saves more than half of the decoding."""


def x264(parameters: str = "", **options: str) -> tuple[str, dict[str, str]]:
    return "libx264", {"preset": "veryfast", "g": "6", **options, "x264-params": f"scenecut=0:{parameters}".strip(":")}


def x265(parameters: str) -> tuple[str, dict[str, str]]:
    return "libx265", {"preset": "ultrafast", "x265-params": f"log-level=none:keyint=6:min-keyint=6:{parameters}"}


VPX = {"g": "6", "cpu-used": "8", "deadline": "realtime"}
CODECS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "H.264 without B frames": x264(bf="0"),
    "H.264 with B frames": x264(bf="3"),
    "H.264 open GOP": x264("open-gop=1", bf="3"),
    "H.264 intra refresh": x264("intra-refresh=1", bf="0"),
    "H.264 of one GOP": x264(bf="3", g="250"),
    "HEVC open GOP": x265("bframes=3:open-gop=1"),
    "HEVC closed GOP": x265("bframes=3:open-gop=0"),
    "MPEG-4": ("mpeg4", {"g": "6", "bf": "2"}),
    "MPEG-2": ("mpeg2video", {"g": "6", "bf": "2"}),
    "VP8": ("libvpx", VPX),
    "VP9 with hidden frames": ("libvpx-vp9", VPX | {"deadline": "good", "auto-alt-ref": "1", "lag-in-frames": "10"}),
    "AV1": ("libsvtav1", {"preset": "8", "crf": "10"}),
}
CONTAINERS = {
    "libx264": ("mp4", "mkv", "ts", "avi", "flv", "mpg"),
    "libx265": ("mp4", "mkv", "ts"),
    "mpeg4": ("mp4", "avi", "mkv"),
    "mpeg2video": ("mpg", "ts", "mov"),
    "libvpx": ("webm",),
    "libvpx-vp9": ("webm", "mp4"),
    "libsvtav1": ("mp4", "mkv"),
}
MATRIX = [(name, container) for name, (codec, _) in CODECS.items() for container in CONTAINERS[codec]]


def displayed_numbers(path: Path, info: VideoInfo | None = None) -> list[int]:
    """The numbers in the pictures of all displayed frames, by the reader that the probe chose."""
    info = info or probe(path)
    return [number_in(pixels) for pixels in read_frames(path, range(info.frames), info.reader)]


@pytest.mark.parametrize(("name", "container"), MATRIX)
def test_frame_k_is_picture_k(tmp_path: Path, name: str, container: str) -> None:
    codec, options = CODECS[name]
    path = write_clip(tmp_path / f"clip.{container}", FRAMES, codec, options)
    info = probe(path)
    assert (info.frames, info.width, info.height, info.rotation) == (FRAMES, WIDTH, HEIGHT, 0)
    assert info.fps == frame_rate(path) == pytest.approx(25, rel=0.01)
    assert displayed_numbers(path, info) == list(range(FRAMES))
    pool = key_frame_pool(FRAMES)
    assert [number_in(pixels) for pixels in read_frames(path, pool[::-1], info.reader)] == pool[::-1]


@pytest.mark.parametrize("name", ["H.264 with B frames", "H.264 open GOP", "HEVC open GOP", "VP9 with hidden frames"])
def test_a_clip_is_read_by_seeking_where_that_saves_work(tmp_path: Path, name: str) -> None:
    codec, options = CODECS[name]
    path = write_clip(tmp_path / "clip.mkv", FRAMES, codec, options)
    assert probe(path).reader == "seek"
    pool = key_frame_pool(FRAMES)
    sought, decoded = (read_frames(path, pool, reader) for reader in ("seek", "sequential"))
    assert all(np.array_equal(a, b) for a, b in zip(sought, decoded, strict=True))


@pytest.mark.parametrize("name", ["H.264 of one GOP", "H.264 intra refresh"])
def test_a_clip_without_places_to_seek_to_is_decoded_from_its_beginning(tmp_path: Path, name: str) -> None:
    codec, options = CODECS[name]
    assert probe(write_clip(tmp_path / "clip.mp4", FRAMES, codec, options)).reader == "sequential"


def test_seeking_that_shows_other_pictures_is_not_used(tmp_path: Path) -> None:
    """Every packet of one GOP says that decoding may begin there; it may not."""
    codec, options = CODECS["H.264 of one GOP"]
    whole, lying = write_clip(tmp_path / "whole.mkv", FRAMES, codec, options), tmp_path / "lying.mkv"
    with av.open(str(whole)) as old, av.open(str(lying), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.is_keyframe, packet.stream = True, stream
                new.mux(packet)
    info = probe(lying)
    assert info.reader == "sequential"
    assert displayed_numbers(lying, info) == list(range(FRAMES))


def test_the_frames_that_will_be_read_are_those_that_are_compared(tmp_path: Path) -> None:
    codec, options = x264(bf="0", g="24")
    path = write_clip(tmp_path / "clip.mp4", FRAMES, codec, options)
    assert probe(path, lambda count: [count - 20]).reader == "seek"
    assert probe(path, lambda count: range(count)).reader == "sequential"


@pytest.mark.parametrize("name", ["H.264 with B frames", "H.264 open GOP", "HEVC open GOP", "MPEG-2"])
@pytest.mark.parametrize(("container", "hidden"), [("mkv", False), ("mp4", False), ("ts", False), ("mp4", True)])
def test_a_cut_shows_what_comes_from_its_key_frame_on(tmp_path: Path, name: str, container: str, hidden: bool) -> None:
    """Frames before it that were copied too, or that cannot be decoded without what was cut off, are not shown."""
    codec, options = CODECS[name]
    whole = write_clip(tmp_path / f"whole.{container}", FRAMES, codec, options)
    numbers = displayed_numbers(cut(whole, tmp_path / f"cut.{container}", keys=4, hidden=hidden))
    assert numbers == list(range(FRAMES - len(numbers), FRAMES))
    assert 24 <= numbers[0] <= 24 + 3 * (not hidden) and len(numbers) >= 69


@pytest.mark.parametrize(("audio_seconds", "muxing"), [(2, None), (0, {"movflags": "frag_keyframe+empty_moov"})])
def test_audio_before_the_video_and_fragments_change_nothing(
    tmp_path: Path, audio_seconds: int, muxing: dict[str, str] | None
) -> None:
    path = write_clip(tmp_path / "clip.mp4", options={"bf": "2"}, audio_seconds=audio_seconds, muxing=muxing)
    assert displayed_numbers(path) == list(range(40))


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_frames_at_uneven_times_are_each_shown_once(tmp_path: Path, container: str) -> None:
    times = [i * 40 + (i > 20) * 900 + (i % 3) * 13 for i in range(40)]
    path = write_clip(tmp_path / f"clip.{container}", times=times, options={"bf": "2", "g": "12"})
    assert displayed_numbers(path) == list(range(40))


@pytest.mark.parametrize(("codec", "pixel_format", "name"), [
    ("libx264", "yuv420p10le", "deep.mp4"), ("libx264", "yuv444p", "full.mkv"), ("gif", "rgb8", "clip.gif"),
    ("mjpeg", "yuvj420p", "clip.avi"),
])  # fmt: skip
def test_pixel_formats(tmp_path: Path, codec: str, pixel_format: str, name: str) -> None:
    assert displayed_numbers(write_clip(tmp_path / name, codec=codec, pixel_format=pixel_format)) == list(range(40))


QUARTERS = {  # display matrix a, b, c, d; where the upper left corner is shown
    (0, 1, -1, 0): (90, "upper right"), (-1, 0, 0, -1): (180, "lower right"), (0, -1, 1, 0): (270, "lower left"),
    (-1, 0, 0, 1): (180, "upper right"), (1, 0, 0, 1): (0, "upper left"),
}  # fmt: skip


@pytest.mark.parametrize(("matrix", "expected"), QUARTERS.items())
@pytest.mark.parametrize("codec", ["libx264", "libsvtav1"])
def test_pictures_are_turned_and_mirrored_as_the_display_matrix_has_it(
    tmp_path: Path, matrix: tuple[int, ...], expected: tuple[int, str], codec: str
) -> None:
    options = {"g": "6"} if codec == "libx264" else {"preset": "12"}
    path = turned(write_clip(tmp_path / "clip.mp4", FRAMES, codec, options), tmp_path / "turned.mp4", matrix)
    info = probe(path)
    size = (HEIGHT, WIDTH) if matrix[1] else (WIDTH, HEIGHT)
    assert (info.rotation, info.width, info.height) == (expected[0], *size)
    for reader in {info.reader, "sequential"}:
        (pixels,) = read_frames(path, [5], reader)
        assert (pixels.shape[1::-1], red_corner(pixels)) == (size, expected[1])


@pytest.mark.parametrize("film_first", [False, True])
def test_the_film_is_shown_and_not_its_preview(tmp_path: Path, film_first: bool) -> None:
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = {}
        for kind in ("film", "preview") if film_first else ("preview", "film"):
            stream = container.add_stream("libx264" if kind == "film" else "mpeg4", rate=25 if kind == "film" else 1)
            stream.width, stream.height = (WIDTH, HEIGHT) if kind == "film" else (64, 64)
            streams[kind] = stream
        for number in range(40):
            if number < 3:
                small = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 50 * number, np.uint8), format="rgb24")
                container.mux(streams["preview"].encode(small))
            container.mux(streams["film"].encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        for stream in streams.values():
            container.mux(stream.encode())
    info = probe(path)
    assert (info.frames, info.width, info.fps) == (40, WIDTH, 25) and frame_rate(path) == 25
    assert displayed_numbers(path, info) == list(range(40))


@pytest.mark.parametrize(
    ("container", "audio_seconds"),
    [
        *((container, 0) for container in ("webm", "mxf", "ivf")),
        *((container, seconds) for container in ("mp4", "avi", "flv", "mkv") for seconds in (0, 5)),
    ],
)
def test_half_a_file_is_no_clip(tmp_path: Path, container: str, audio_seconds: int) -> None:
    codec, options = CODECS[{"webm": "VP8", "ivf": "VP8", "mxf": "MPEG-2"}.get(container, "H.264 with B frames")]
    path = write_clip(
        tmp_path / f"clip.{container}", 120, codec, options, audio_seconds=audio_seconds,
        muxing={"movflags": "faststart"} if container == "mp4" else None,
    )  # fmt: skip
    stated = probe(path).header_seconds
    assert stated == pytest.approx(4.8, abs=0.4)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnreadableVideo, match=r"ends after \d\.\d of the \d\.\d s that its header states"):
        probe(path)


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_sound_that_goes_on_after_the_pictures_is_no_fault(tmp_path: Path, container: str) -> None:
    path = write_clip(tmp_path / f"clip.{container}", audio_seconds=6)
    assert displayed_numbers(path) == list(range(40))


def test_a_name_is_only_ever_a_files_name(tmp_path: Path) -> None:
    plain = write_clip(tmp_path / "plain.mp4", options={"g": "2"})
    for name in ("-0aBcDeFgHi-0:04:09.165-0:04:57.213.mp4", "http:x.mp4", "concat:plain.mp4|plain.mp4", "50%03d *.mp4"):
        path = tmp_path / name
        path.write_bytes(plain.read_bytes())
        assert displayed_numbers(path) == list(range(40))


def test_a_name_is_only_ever_a_files_name_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(tmp_path / "plain.mp4").rename(tmp_path / "-a:b.mp4")
    monkeypatch.chdir(tmp_path)
    assert displayed_numbers(Path("-a:b.mp4")) == list(range(40))


def test_a_picture_is_a_clip_of_one_frame_whatever_its_name(tmp_path: Path) -> None:
    from PIL import Image

    for number, name in ((3, "p%03d.png"), (4, "p001.png"), (5, "p.jpg"), (6, "p.webp")):
        Image.fromarray(picture(number)).save(tmp_path / name)
        assert displayed_numbers(tmp_path / name) == [number]


@pytest.mark.parametrize("content", [
    "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{clip}\n#EXT-X-ENDLIST\n",
    "ffconcat version 1.0\nfile secret.mp4\n",
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:full:2011" '
    'type="static" mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="0" '
    'bandwidth="1"><BaseURL>secret.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>',
])  # fmt: skip
@pytest.mark.parametrize("suffix", ["mp4", "m3u8"])
def test_a_playlist_opens_nothing(tmp_path: Path, content: str, suffix: str) -> None:
    clip = write_clip(tmp_path / "secret.mp4")
    playlist = tmp_path / f"list.{suffix}"
    playlist.write_text(content.format(clip=clip) if "{clip}" in content else content)
    with pytest.raises(UnreadableVideo):
        probe(playlist)
    with pytest.raises(UnreadableVideo):
        read_sequentially(playlist, [0])


def test_a_recording_that_begins_in_the_middle_shows_what_can_be_decoded(tmp_path: Path) -> None:
    codec, options = x264(bf="2", g="24")
    path = write_clip(tmp_path / "clip.ts", FRAMES, codec, options)
    content = path.read_bytes()
    path.write_bytes(content[len(content) // 188 // 3 * 188 :])
    numbers = displayed_numbers(path)
    assert 24 < numbers[0] < 60 and numbers == list(range(numbers[0], FRAMES))
