"""The parts of a prompt: text, images and video, in the order in which the model sees them.

Clips stay on disk: a part names the clip and the frame numbers; only images that a benchmark embeds carry bytes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

FIELDS = ("type", "text", "path", "frames", "reader", "data", "max_tokens")
"""Of a part; training.data.prompts has their types and says what they hold."""

Part = dict[str, Any]


def _part(kind: str, **fields: Any) -> Part:
    return dict.fromkeys(FIELDS) | {"type": kind} | fields


def text(value: str) -> Part:
    """A piece of text, rendered verbatim."""
    return _part("text", text=value)


def frame(path: Path | str, number: int, max_tokens: int | None = None, reader: str = "sequential") -> Part:
    """One frame of a clip as an image; `number` counts displayed frames from 0."""
    return _part("image", path=str(path), frames=[number], reader=reader, max_tokens=max_tokens)


def image(data: bytes, max_tokens: int | None = None) -> Part:
    """An encoded (PNG, JPEG) image."""
    return _part("image", data=data, max_tokens=max_tokens)


def video(path: Path | str, numbers: Sequence[int], reader: str = "sequential", max_tokens: int | None = None) -> Part:
    """Frames of a clip as one video, shown in pairs; `max_tokens` caps each pair."""
    return _part("video", path=str(path), frames=list(numbers), reader=reader, max_tokens=max_tokens)
