"""Images of unknown origin: three formats, bounded pixels, and one error whatever Pillow stumbles over."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from training.data.images import MAX_PIXELS, media_type, open_image

READ = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


def encoded(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def noise(mode: str = "RGB") -> Image.Image:
    return Image.effect_noise((64, 48), 60).convert(mode)


def png(width: int, height: int, body: bytes) -> bytes:
    """A grey PNG of this size, as its header says, with this body."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", READ)
def test_an_image_is_read_and_labelled_with_its_type(kind: str) -> None:
    data = encoded(noise(), kind)
    assert media_type(data) == READ[kind]
    np.testing.assert_array_equal(open_image(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "DDS", "PPM", "ICO", "TGA"])
def test_other_formats_are_not_opened(kind: str) -> None:
    data = encoded(noise(), kind)
    assert media_type(data) is None
    with pytest.raises(ValueError, match="an image is PNG, JPEG, WEBP; this one begins with b'"):
        open_image(data)


def test_sounds_and_films_of_the_same_container_are_no_webp() -> None:
    assert media_type(b"RIFF\0\0\0\0AVI LIST") is None


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert open_image(encoded(noise(mode), "PNG")).shape == (48, 64, 3)


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    grey = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    pixels = open_image(encoded(Image.fromarray(grey), "PNG"))
    assert pixels[0, :, 0].tolist() == [0, 0, 0, 127, 255]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(png(8, 8, b"no zlib"), id="no zlib"),
        pytest.param(png(8, 8, zlib.compress(b"\0" * 20)), id="too little data"),
        pytest.param(png(8, 8, zlib.compress(b"\0" * 72))[:44], id="breaks off"),
        pytest.param(png(8, 8, zlib.compress(b"\0" * 72)).replace(b"IDAT", b"\0\1\2\3"), id="a broken chunk"),
        pytest.param(png(8, 8, zlib.compress(b"\0" * 72)).replace(b"IDAT", b"IHDR"), id="two headers"),
        pytest.param(b"\xff\xd8\xff\xe0\0\x10JFIF", id="a JPEG without a picture"),
        pytest.param(b"RIFF\0\0\0\0WEBPVP8 ", id="a WEBP without a picture"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_a_broken_image_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="image"):
        open_image(data)


def test_an_image_of_too_many_pixels_is_not_decoded() -> None:
    side = 2**13
    assert side * side > MAX_PIXELS
    with pytest.raises(ValueError, match=f"an image of {side * side} pixels; at most {MAX_PIXELS} are read"):
        open_image(png(side, side, zlib.compress(b"")))


@pytest.mark.parametrize("value", [None, "text", {"bytes": b""}, 5])
def test_what_is_no_bytes_is_no_image(value: object) -> None:
    with pytest.raises(ValueError, match="an image is bytes"):
        open_image(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", READ)
def test_whatever_bytes_change_it_is_an_image_or_a_value_error(kind: str) -> None:
    draw = random.Random(kind)
    good = encoded(noise(), kind)
    for _ in range(400):
        data = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(min(len(data), 300))] = draw.randrange(256)
        try:
            open_image(bytes(data[: draw.randrange(len(data))] if draw.random() < 0.2 else data))
        except ValueError:
            continue
