"""Prompt tables: the input of `evaluation.generate`, as parquet rows of text, images and video.

A table has `prompt_id` (unique) and `content`, the user turn as a list of parts in the order in which the model sees
them.  Clips stay on disk: a part names the clip and the frame numbers; only images that a benchmark embeds carry bytes.
Optional columns: `key` (identifies the prompt in a ledger), `options` (the item's, in order), `question`, and
`reference` (the item's right answer).
An answers table has `latents` where they were kept: binary, float16, little-endian,
row-major [sum(spans), D], null for an answer without any; READINGS where latents were read; and `engine` where a server
answered.
"""

from collections.abc import Sequence
from typing import Any

import dataframely as dy
import polars as pl

from training.data.parts import Part

PART = pl.Struct(
    {
        "type": pl.String,  # "text" | "image" | "video"
        "text": pl.String,
        "path": pl.String,  # absolute path of the clip
        "frames": pl.List(pl.Int64),  # frame numbers; exactly one for an image
        "reader": pl.String,  # how the clip is read, as its probe recorded
        "data": pl.Binary,  # an encoded image instead of path and frames; with them, it stands for each of the frames
        "max_tokens": pl.Int64,  # cap on merged vision tokens of this image or frame pair; null: the job's limit
    }
)
PROMPTS: dict[str, Any] = {"prompt_id": pl.String, "content": pl.List(PART)}


class AnswerTable(dy.Schema):
    """One answer a row."""

    prompt_id = dy.String(description="id of the prompt: row_id/plain, row_id/hint, or a benchmark item's id")
    # `sample` is a method of every schema.
    number = dy.Int64(alias="sample", description="number of the answer to its prompt, from 0")
    text = dy.String(description="decoded text with special tokens, without the end of turn")
    tokens = dy.List(dy.Int64(), description="token ids")
    text_tokens = dy.Int64(description="number of text tokens")
    latent_tokens = dy.Int64(description="number of latents that were fed back")
    control_tokens = dy.Int64(description="number of latent_start, latent_end and end-of-turn tokens")
    spans = dy.List(dy.Int64(), description="number of latents of each span")
    finished = dy.Bool(description="false: cut by max_new_tokens")
    prefill_seconds = dy.Float64(description="its share of its batch's prefill")
    decode_seconds = dy.Float64(description="its share of its batch's decoding")


class BenchmarkAnswerTable(AnswerTable):
    """An answer to a benchmark item: what it was generated from, and its latents, where they are kept."""

    prompt_tokens = dy.Int64(description="number of tokens of the prompt, text and vision")
    latents = dy.Binary(
        nullable=True, description="latents that were fed: float16, row-major [sum of spans, hidden size]"
    )


class ServedAnswerTable(AnswerTable):
    """An answer of a served checkpoint."""

    engine = dy.String(description="the server's system_fingerprint and the hash of its plug-in")


class ReadingTable(AnswerTable):
    """An answer, and how its latents are read."""

    attention = dy.List(
        dy.List(dy.List(dy.List(dy.Float64()))),
        nullable=True,
        description="attention of the tokens behind a span, its shares of text, frames and spans: [as decoded, with "
        "noise in place of the latents; layers; head groups; 3]",
    )
    words = dy.List(
        dy.Struct({"nearest": dy.String(), "lens": dy.List(dy.String())}),
        description="words of each latent: the nearest token embedding, and the logit lens of the latent and of the "
        "state in its place after each layer",
    )


ANSWERS: dict[str, Any] = {column.name: column.dtype for column in AnswerTable.columns().values()}
ENGINE = "engine"
LATENTS = "latents"
READINGS = tuple(name for name in ReadingTable.columns() if name not in AnswerTable.columns())
PROMPT_TOKENS = "prompt_tokens"
"""An optional column: the tokens that were prefilled, text and vision.  It is written where a prompt has one answer."""


def prompt_frame(rows: Sequence[tuple[str, Sequence[Part]]]) -> pl.DataFrame:
    """Rows of (prompt_id, parts) as a prompt table.

    Raises ValueError when two rows share an id: answers are joined back by it.
    """
    table = pl.DataFrame({"prompt_id": [i for i, _ in rows], "content": [list(p) for _, p in rows]}, schema=PROMPTS)
    repeated = table.filter(pl.col("prompt_id").is_duplicated())["prompt_id"].unique().to_list()
    if repeated:
        raise ValueError(f"prompt ids must be unique; repeated: {sorted(repeated)[:5]}")
    return table
