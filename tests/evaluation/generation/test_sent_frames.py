"""The pictures that a served model gets are those that the prompt names: read back from the requests."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.generation.config import GenerationConfig
from evaluation.generation.endpoint import EndpointEngine
from evaluation.generation.requests import Request
from tests.evaluation.jobs import generate
from tests.numbered import cut, number_in, red_corner, turned, write_clip
from tests.served import served
from training.chat.endpoint import EndpointSettings
from training.data.keyframes import key_frame_pool
from training.data.parts import frame, text, video
from training.data.video import probe

GENERATION = GenerationConfig(temperature=0.0, top_p=1.0, max_new_tokens=8, batch_size=1, image_tokens=(4, 1024))
OPEN_GOP = {"bf": "3", "g": "8", "x264-params": "open-gop=1:scenecut=0"}


def sent(path: Path, numbers: list[int], reader: str, *, as_video: bool) -> list[np.ndarray]:
    """The images of the request that shows these frames."""
    parts = [video(path, numbers, reader)] if as_video else [frame(path, n, reader=reader) for n in numbers]
    request = Request("p", [*parts, text("What next?")], (0,), (0,), "p")
    with served(lambda request, choice: "It goes on.") as server:
        settings = EndpointSettings(base_urls=(server.url,), model="served")
        list(generate(EndpointEngine(settings), None, GENERATION, "none", [request]))
    (arrived,) = server.requests
    urls = [part["image_url"]["url"] for part in arrived["messages"][-1]["content"] if part["type"] == "image_url"]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))) for url in urls]


@pytest.mark.parametrize("as_video", [False, True])
@pytest.mark.parametrize("kind", ["open GOP", "MPEG-TS", "HEVC cut", "seekable"])
def test_key_frames_are_sent_as_they_are_displayed(tmp_path: Path, kind: str, as_video: bool) -> None:
    first = 0
    match kind:
        case "open GOP":
            path = write_clip(tmp_path / "clip.mp4", options=OPEN_GOP)
        case "MPEG-TS":
            path = write_clip(tmp_path / "clip.ts", options={"bf": "2", "g": "12"})
        case "HEVC cut":
            options = {"x265-params": "log-level=none:keyint=10:bframes=3"}
            path = cut(write_clip(tmp_path / "whole.mp4", codec="libx265", options=options), tmp_path / "clip.mkv", 2)
            first = 18
        case _:
            path = write_clip(tmp_path / "clip.mp4", 96, options=OPEN_GOP | {"g": "4"})
    info = probe(path)
    pool = key_frame_pool(info.frames)
    images = sent(path, pool, info.reader, as_video=as_video)
    assert [number_in(image) - first for image in images] == pool
    assert info.reader == ("seek" if kind == "seekable" else "sequential")


def test_a_turned_clip_is_sent_upright(tmp_path: Path) -> None:
    path = turned(write_clip(tmp_path / "clip.mp4"), tmp_path / "turned.mp4", (0, 1, -1, 0))
    (image,) = sent(path, [3], probe(path).reader, as_video=False)
    assert image.shape[:2] == (192, 128) and red_corner(image) == "upper right"
