"""Prompts as chat messages: text, and images as JPEG data URLs of the size that the server's model sees."""

import asyncio
import base64
import io
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image

from evaluation.generation.frames import with_images
from evaluation.generation.requests import Asking, Request
from training.data.prompts import Part
from training.data.video import FrameShelf

JPEG_QUALITY = 95


class Renderer:
    """Prompts to chat messages, in a few threads; prompts of one group share a thread and the frames that it read."""

    def __init__(self, asking: Asking, frames_cache_bytes: int, factor: int) -> None:
        self._asking, self._factor = asking, factor
        count = min(4, os.cpu_count() or 1)
        self._threads = [(ThreadPoolExecutor(1), FrameShelf(frames_cache_bytes // count)) for _ in range(count)]

    def __enter__(self) -> "Renderer":
        return self

    def __exit__(self, *_: object) -> None:
        for thread, _shelf in self._threads:
            thread.shutdown(cancel_futures=True)

    async def messages(self, request: Request) -> list[dict[str, Any]]:
        """The system prompt, if there is one, and the user turn.

        Raises ValueError (UnreadableVideo among them) or OSError where its frames or images cannot be read.
        """
        thread, shelf = self._threads[hash(request.group) % len(self._threads)]
        content = await asyncio.get_running_loop().run_in_executor(thread, self._content, request.content, shelf)
        system = [] if self._asking.system is None else [{"role": "system", "content": self._asking.system}]
        return [*system, {"role": "user", "content": content}]

    def _content(self, parts: Sequence[Part], shelf: FrameShelf) -> list[dict[str, Any]]:
        """Text and images in order; texts that follow each other are one, so that no server puts a break between."""
        content: list[dict[str, Any]] = []
        for part, images in with_images(parts, shelf):
            if part["type"] == "text":
                if content and content[-1]["type"] == "text":
                    content[-1]["text"] += part["text"]
                else:
                    content.append({"type": "text", "text": part["text"]})
            else:
                high = part["max_tokens"] or self._asking.image_tokens[1]
                low = min(self._asking.image_tokens[0], high)
                content += [_image_url(Image.fromarray(image), low, high, self._factor) for image in images]
        return content


def _image_url(image: Image.Image, low: int, high: int, factor: int) -> dict[str, Any]:
    size = fitted_size(image.width, image.height, low, high, factor)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=JPEG_QUALITY)
    url = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def fitted_size(width: int, height: int, low: int, high: int, factor: int) -> tuple[int, int]:
    """Pixels (width, height) of an image as it is sent: unchanged where it has low..high merged tokens of `factor`
    pixels a side, else the nearest whole tokens within them.  `high` wins over `low` and over the aspect ratio, as in
    the local backend.
    """
    tokens = max(1, round(width / factor)) * max(1, round(height / factor))
    exact = width * height / factor**2
    if low <= tokens <= high and exact <= high:
        return width, height
    scale, whole = (math.sqrt(low / exact), math.ceil) if tokens < low else (math.sqrt(high / exact), math.floor)
    columns, rows = max(1, whole(width * scale / factor)), max(1, whole(height * scale / factor))
    rows = min(rows, high)  # only reached by strips, whose short side is one token
    return min(columns, high // rows) * factor, rows * factor
