"""Prompts of visual gain: each row plainly, and with its true future frames as the hint.

Nothing but the hint differs: the future frames follow the last observed frame, each as its own image, before the rest
of the question (the paper gives no prompts, reference/paper.md 1.1; these are ours, and their hash is provenance).
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict

from evaluation.generation.curtailment import CONDITIONS, Condition
from training.data.dialogue import Slot, user_pieces
from training.data.keyframes import key_frame_number
from training.data.parts import Part, frame, text
from training.data.prompts import prompt_frame

PROMPTS_VERSION = "1"
COLUMNS = ("question", "observed", "future", "path", "frame_count", "reader")
"""The columns of a row that decide its prompts."""
KEY_DIGITS = 32


class PromptSettings(BaseModel):
    """Layout of a prompt: a cap on each hint frame's merged vision tokens, and words that follow the question."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hint_tokens: int | None = None
    """The most merged vision tokens of each hint frame; None: those of an observed frame."""
    instruction: str = ""
    """Words that follow the question."""


def answer_prompts(rows: pl.DataFrame, settings: PromptSettings) -> pl.DataFrame:
    """The prompt table of both conditions; ids are `{row_id}/{condition}`.

    `rows` has the trajectory's columns and its clip's: `path` (absolute), `frame_count` (displayed), `reader`,
    `sha256`.  The column `key` is a hash of the id and of the prompt's content, wherever the clip lies: it identifies
    the prompt in the ledger.  (Two rows may have the same question and other futures: each has its answers.)
    """
    prompts = [
        (f"{row['row_id']}/{condition}", row, _content(row, condition, settings))
        for row in rows.select("row_id", "sha256", "answer", *COLUMNS).iter_rows(named=True)
        for condition in CONDITIONS
    ]
    return prompt_frame([(name, content) for name, _, content in prompts]).with_columns(
        pl.Series("key", [_key(name, row["sha256"], content) for name, row, content in prompts], pl.String),
        pl.Series("question", [row["question"] for _, row, _ in prompts], pl.String),
        pl.Series("reference", [row["answer"] for _, row, _ in prompts], pl.String),
    )


def _key(name: str, sha256: str, content: list[Part]) -> str:
    clip = {"path": sha256, "reader": None}
    parts = [part | clip if part["path"] else part for part in content]
    return hashlib.sha256(json.dumps([name, parts], sort_keys=True).encode()).hexdigest()[:KEY_DIGITS]


def prompts_hash(settings: PromptSettings) -> str:
    """Sixteen hex digits that change whenever a prompt would: the version, the settings, one row's rendering."""
    row = dict(zip(COLUMNS, ("frame_1\n<image>\nWhat next?", [1], [2, 3], "clip.mp4", 100, "seek"), strict=True))
    sample = {condition: _content(row, condition, settings) for condition in CONDITIONS}
    identity = json.dumps([PROMPTS_VERSION, settings.model_dump(), sample], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _content(row: Mapping[str, Any], condition: Condition, settings: PromptSettings) -> list[Part]:
    def key_frame(index: int, most: int | None = None) -> Part:
        return frame(row["path"], key_frame_number(row["frame_count"], index), most, row["reader"])

    images = [[key_frame(index)] for index in row["observed"]]
    if condition == "hint":
        images[-1] += [key_frame(index, settings.hint_tokens) for index in row["future"]]
    parts: list[Part] = []
    for piece in user_pieces(row["question"], len(images)):
        parts += images[piece.index] if isinstance(piece, Slot) else [text(piece)]
    return [*parts, text(settings.instruction)] if settings.instruction else parts
