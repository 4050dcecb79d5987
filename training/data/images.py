"""Encoded images that rows, benchmarks and prompts bring along: the one place where bytes that nobody here made are
opened.

PNG, JPEG and WEBP, and no more pixels than MAX_PIXELS; Pillow knows tens of formats, and its errors have as many types.
"""

import io
import math
import re

import numpy as np
from PIL import Image

from training.data.rejection import described

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 2**25
"""8K UHD; 100 MB as RGB."""
JPEG_QUALITY = 95
"""Of frames from clips: a benchmark of 720p frames as PNG would not fit into memory."""
_SIGNATURES = {"image/png": rb"\x89PNG\r\n\x1a\n", "image/jpeg": rb"\xff\xd8\xff", "image/webp": rb"RIFF.{4}WEBP"}


def open_image(data: bytes) -> np.ndarray:
    """The image as uint8 height x width x RGB; 16-bit grey is scaled to 8 bits, transparency is left out.

    Raises ValueError for what is no image in FORMATS, has too many pixels, or is broken.
    """
    if not isinstance(data, bytes):
        raise ValueError(f"an image is bytes; found {type(data).__name__}")
    if (kind := media_type(data)) is None:
        raise ValueError(f"an image is {', '.join(FORMATS)}; this one begins with {data[:8]!r}")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if (pixels := image.width * image.height) <= MAX_PIXELS:
                return rgb(image)
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"a broken {kind}: {described(error)}") from error
    raise ValueError(f"an image of {pixels} pixels; at most {MAX_PIXELS} are read")


def rgb(image: Image.Image) -> np.ndarray:
    """An opened image as uint8 height x width x RGB; 16-bit grey is scaled to 8 bits, transparency is left out."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.uint32) * 255 // 65535).astype(np.uint8))
    return np.asarray(image.convert("RGB"))


def media_type(data: bytes) -> str | None:
    """The type of an image in FORMATS, as a data URL names it; None for anything else."""
    return next((name for name, signature in _SIGNATURES.items() if re.match(signature, data, re.DOTALL)), None)


def jpeg(pixels: np.ndarray) -> bytes:
    """The pixels (uint8 height x width x RGB) as a JPEG."""
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=JPEG_QUALITY)
    return encoded.getvalue()


def fit_grid(height: int, width: int, low: int, high: int, tile: int, strict: bool = True) -> tuple[int, int]:
    """The merged grid (rows, columns) of an image of height x width px: rows * columns <= high.

    `tile` is the side of one merged token in px.  The aspect ratio is kept as well as whole tokens allow, before `low`:
    between close bounds a grid may have fewer tokens, as by Qwen's own rule.  `high` wins over the aspect ratio,
    whatever the image's shape (a strip of 3000x300 px never exceeds the cap), but not where `strict` is off: Qwen's
    rule lets a strip exceed it.
    """
    if min(height, width) < 1 or not 1 <= low <= high:
        raise ValueError(f"cannot fit an image of {height}x{width} px into {low}..{high} tokens")
    rows, columns = max(1, round(height / tile)), max(1, round(width / tile))
    if rows * columns > high:
        shrink = math.sqrt(height * width / (high * tile**2))
        rows, columns = max(1, math.floor(height / shrink / tile)), max(1, math.floor(width / shrink / tile))
    elif rows * columns < low:
        grow = math.sqrt(low * tile**2 / (height * width))
        rows, columns = math.ceil(height * grow / tile), math.ceil(width * grow / tile)
    if not strict:
        return rows, columns
    rows = min(rows, high)  # only reached by strips, whose short side is one token
    return rows, min(columns, high // rows)
