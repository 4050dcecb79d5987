"""Prompts as chat messages, with images as JPEG data URLs of the size that the server's model sees; and the text of
its replies.

Servers with a reasoning parser return the reasoning in a field of its own, and some parsers put the answer there, too.
"""

import asyncio
import base64
import io
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from PIL import Image

from evaluation.generation.config import GenerationConfig
from evaluation.generation.requests import Request, with_images
from training.chat.completion import Choice, one_line
from training.data.images import fit_grid
from training.data.parts import Part
from training.data.video import FrameCache
from training.grading.parsers import answer_text

JPEG_QUALITY = 95
FULL_COLOUR = 0
"""Pillow's number for a colour of each pixel; with its default, one of four, small coloured things change answers."""
BROKEN_OFF = ("abort", "error", "content_filter")
"""Finish reasons of replies that the server, not the model, ended."""
Rendered = TypeVar("Rendered")
_TAGS = re.compile(r"</?(?:answer|ans|reason)>")


class Renderer(Generic[Rendered]):
    """Renders prompts in a few threads; prompts of one group share a thread and the frames that it read."""

    def __init__(self, render: Callable[[Request, FrameCache], Rendered], frames_cache_bytes: int) -> None:
        self._render = render
        count = min(4, os.cpu_count() or 1)
        self._threads = [(ThreadPoolExecutor(1), FrameCache(frames_cache_bytes // count)) for _ in range(count)]

    def __enter__(self) -> "Renderer[Rendered]":
        return self

    def __exit__(self, *_: object) -> None:
        for thread, _frame_cache in self._threads:
            thread.shutdown(cancel_futures=True)

    async def __call__(self, request: Request) -> Rendered:
        """Raises ValueError (UnreadableVideo among them) or OSError where its frames or images cannot be read."""
        thread, frame_cache = self._threads[hash(request.group) % len(self._threads)]
        return await asyncio.get_running_loop().run_in_executor(thread, self._render, request, frame_cache)


def chat_messages(
    generation: GenerationConfig, factor: int, parts: Sequence[Part], frame_cache: FrameCache
) -> list[dict[str, Any]]:
    """The system prompt, if there is one, and the user turn; `factor`: pixels a side of a merged vision token.

    Texts that follow each other are one, so that no server puts a break between.  Raises as Renderer does.
    """
    content: list[dict[str, Any]] = []
    for part, images in with_images(parts, frame_cache):
        if part["type"] == "text":
            if content and content[-1]["type"] == "text":
                content[-1]["text"] += part["text"]
            else:
                content.append({"type": "text", "text": part["text"]})
        else:
            high = part["max_tokens"] or generation.image_tokens[1]
            low = min(generation.image_tokens[0], high)
            content += [_image_url(Image.fromarray(image), low, high, factor) for image in images]
    return [*system_turn(generation), {"role": "user", "content": content}]


def system_turn(generation: GenerationConfig) -> list[dict[str, Any]]:
    """The system prompt as a message; none without one."""
    prompt = generation.system_prompt
    return [] if prompt is None else [{"role": "system", "content": prompt}]


def _image_url(image: Image.Image, low: int, high: int, factor: int) -> dict[str, Any]:
    size = fitted_size(image.width, image.height, low, high, factor)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=JPEG_QUALITY, subsampling=FULL_COLOUR)
    url = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def fitted_size(width: int, height: int, low: int, high: int, factor: int) -> tuple[int, int]:
    """Pixels (width, height) of an image as it is sent: unchanged where it has low..high merged tokens of `factor`
    pixels a side, else the nearest whole tokens within them, those of the local engine.
    """
    rows, columns = fit_grid(height, width, low, high, factor)
    nearest = max(1, round(width / factor)), max(1, round(height / factor))
    if (columns, rows) == nearest and width * height <= high * factor**2:
        return width, height
    return columns * factor, rows * factor


def served_text(choice: Choice) -> str | None:
    """The text of an answer; None where the server gave none.

    Reasoning from a field of its own stands first, as one reason block without tags inside: the answer is what follows
    it, so a draft in the reasoning is never graded.  Where nothing follows, it is the whole text if it has a complete
    answer tag and was not cut off.
    """
    text, thoughts = choice.message.text, choice.message.thoughts
    if choice.finish_reason in BROKEN_OFF:
        return None
    if text.strip():
        return f"<reason>{_TAGS.sub('', thoughts).strip()}</reason>\n{text}" if thoughts else text
    complete = choice.finish_reason != "length" and answer_text(thoughts) is not None
    return thoughts if complete else None


def why_no_text(choice: Choice) -> str:
    """The content of a choice without an answer, in one line."""
    pieces = [f"finish_reason {one_line(str(choice.finish_reason))!r}"]
    for name, text in (("text", choice.message.text), ("reasoning", choice.message.thoughts)):
        pieces.append(f"{name} that ends with {one_line(text[-200:])!r}" if text.strip() else f"no {name}")
    return ", ".join(pieces)
