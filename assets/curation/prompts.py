"""What the probe model is asked for visual gain: each row plainly, and with its true future frames as the hint.

Nothing but the hint differs: the future frames follow the last observed frame, each as its own image, before the rest
of the question (the paper gives no prompts, reference/paper.md 1.1; these are ours, and their hash is provenance).
"""

import hashlib
import json
from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict

from training.data.dialogue import Slot, user_pieces
from training.data.keyframes import key_frame_number
from training.data.prompts import Part, frame, prompt_frame, text

Condition = Literal["plain", "hint"]
CONDITIONS: tuple[Condition, ...] = ("plain", "hint")
PROMPTS_VERSION = "1"


class PromptSettings(BaseModel):
    """How a row is shown: a cap on each hint frame's merged vision tokens, and words that follow the question."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hint_tokens: int | None = None
    instruction: str = ""


def answer_prompts(rows: pl.DataFrame, condition: Condition, settings: PromptSettings) -> pl.DataFrame:
    """The prompt table of one condition; ids are `{row_id}/{condition}`.

    `rows` has the trajectory's columns, `path` (absolute) and `frame_count` (displayed frames of the clip).
    """
    names = ("row_id", "question", "observed", "future", "path", "frame_count")
    return prompt_frame(
        [
            (prompt_id(row_id, condition), _content(question, path, count, observed, future, condition, settings))
            for row_id, question, observed, future, path, count in rows.select(names).iter_rows()
        ]
    )


def prompt_id(row_id: str, condition: Condition) -> str:
    return f"{row_id}/{condition}"


def prompts_hash(settings: PromptSettings) -> str:
    """Sixteen hex digits that change whenever a prompt would: the version, the settings, one row's rendering."""
    sample = {
        c: _content("frame_1\n<image>\nWhat next?", "clip.mp4", 100, [1], [2, 3], c, settings) for c in CONDITIONS
    }
    known = json.dumps([PROMPTS_VERSION, settings.model_dump(), sample], sort_keys=True)
    return hashlib.sha256(known.encode()).hexdigest()[:16]


def _content(
    question: str,
    path: str,
    frame_count: int,
    observed: list[int],
    future: list[int],
    condition: Condition,
    settings: PromptSettings,
) -> list[Part]:
    images = [[frame(path, key_frame_number(frame_count, k))] for k in observed]
    if condition == "hint":
        images[-1] += [frame(path, key_frame_number(frame_count, k), settings.hint_tokens) for k in future]
    parts: list[Part] = []
    for piece in user_pieces(question, len(observed)):
        parts += images[piece.index] if isinstance(piece, Slot) else [text(piece)]
    return [*parts, text(settings.instruction)] if settings.instruction else parts
