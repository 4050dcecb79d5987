"""The images of a prompt, as both backends see them."""

import io

import numpy as np
import pytest
from PIL import Image

from evaluation.generation.requests import with_images
from training.data import images, parts
from training.data.video import FrameCache


def png(height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_image_that_is_a_bomb_is_refused_and_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    content = [parts.text("Look:"), parts.image(png(40, 40))]
    [(_, none), (_, [image])] = list(with_images(content, FrameCache(0)))
    assert none == [] and image.shape == (40, 40, 3)
    monkeypatch.setattr(images, "MAX_PIXELS", 500)
    with pytest.raises(ValueError, match="an image of 1600 pixels; at most 500 are read"):
        list(with_images(content, FrameCache(0)))
