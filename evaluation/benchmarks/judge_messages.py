"""Messages to a judge: their parts, and an answer as a judge reads it.

The clean-up of responses is the release's, step for step (reference/evaluation.md 2.3).
"""

import base64
import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from training.data.images import media_type

Marks = tuple[int, ...]

_LATENT = re.compile(r"<\|latent(?:_start|_end)?\|>", re.IGNORECASE)
_CHAT = re.compile(r"<\|(?:im_start|im_end|endoftext|redacted_im_end)\|>")
_ANS = re.compile(r"<(/?)ans\s*>", re.IGNORECASE)
_TAGS = {
    tag: (re.compile(rf"<{tag}\s*>", re.IGNORECASE), re.compile(rf"</{tag}\s*>", re.IGNORECASE))
    for tag in ("answer", "reason")
}
"""Opening and closing."""
_REASON_TAG = re.compile(r"</?reason\s*>", re.IGNORECASE)
_IMAGE = re.compile(r"<image>\s*")


class JudgedSettings(BaseModel):
    """The settings that all judged benchmarks share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: str
    """How an item is shown."""
    judge_sees_images: bool = True
    """Whether the judge gets the item's images."""
    judge_samples: int = Field(default=1, ge=1)
    """Judgements of an item; its mark is their mean, and the report has their agreement."""


def text_part(text: str) -> dict[str, Any]:
    """A text in a message to a judge."""
    return {"type": "text", "text": text}


def image_part(data: bytes) -> dict[str, Any]:
    """An encoded image in a message to a judge, labelled with its type."""
    url = f"data:{media_type(data)};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _blocks(tag: str, text: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and inner text of each complete block, from its first opening to the next closing tag, in linear
    time."""
    opening, closing = _TAGS[tag]
    at = 0
    while (opened := opening.search(text, at)) and (closed := closing.search(text, opened.end())):
        at = closed.end()
        yield opened.start(), at, text[opened.end() : closed.start()].strip()


def split_response(text: str) -> tuple[str, str]:
    """The reasoning (the blocks, then what stood outside them) and the first answer, control tokens removed; the answer
    is empty where no tag is complete."""
    plain = _ANS.sub(r"<\1answer>", _CHAT.sub("", _LATENT.sub("", text)))
    start, _, answer = next(_blocks("answer", plain), (len(plain), len(plain), ""))
    return _tidy(merged_reasons(plain[:start])), _tidy(answer)


def merged_reasons(text: str) -> str:
    """The inner texts of all complete reason blocks, joined by blank lines, and after them what was left outside."""
    inside, outside, at = [], [], 0
    for start, end, inner in _blocks("reason", text):
        inside.append(inner)
        outside.append(text[at:start])
        at = end
    rest = "".join([*outside, text[at:]]).strip()
    return "\n\n".join(piece for piece in (*inside, rest) if piece)


def without_image_markers(question: str) -> str:
    """The question as the release shows it: markers and the white space after them removed."""
    return _IMAGE.sub("", question).strip()


def _tidy(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", _REASON_TAG.sub("", text)).strip()


def mean_mark(marks: Sequence[int | None]) -> float | None:
    """The mean of the judgements that gave a mark; None where none did."""
    present = [mark for mark in marks if mark is not None]
    return sum(present) / len(present) if present else None
