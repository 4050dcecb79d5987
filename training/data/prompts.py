"""Prompt tables: what the answering program is asked, as parquet rows of text, images and video.

A table has `prompt_id` (unique) and `content`, the user turn as a list of parts in the order in which the model sees
them.  Clips stay on disk: a part names the clip and the frame numbers; only images that a benchmark embeds carry bytes.
It may have `key` (what a ledger knows the prompt by), `options` (the item's, in order) and `reference` (what items with
the same right answer share).  An answers table has `latents` where they were kept: binary, float16, little-endian,
row-major [sum(spans), D], null for an answer without any.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

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
FIELDS = [field.name for field in PART.fields]
PROMPTS: dict[str, Any] = {"prompt_id": pl.String, "content": pl.List(PART)}
ANSWERS: dict[str, Any] = {
    "prompt_id": pl.String,
    "sample": pl.Int64,
    "text": pl.String,  # decoded with special tokens kept, without the end of turn
    "tokens": pl.List(pl.Int64),
    "text_tokens": pl.Int64,
    "latent_tokens": pl.Int64,
    "control_tokens": pl.Int64,  # latent_start, latent_end and the end of turn
    "spans": pl.List(pl.Int64),  # latents of each span that was generated
    "finished": pl.Boolean,  # False: cut by max_new_tokens
    "prefill_seconds": pl.Float64,  # of the answer's share of its batch
    "decode_seconds": pl.Float64,
}

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


def prompt_frame(rows: Sequence[tuple[str, Sequence[Part]]]) -> pl.DataFrame:
    """Rows of (prompt_id, parts) as a prompt table.

    Raises ValueError when two rows share an id: answers are joined back by it.
    """
    table = pl.DataFrame({"prompt_id": [i for i, _ in rows], "content": [list(p) for _, p in rows]}, schema=PROMPTS)
    repeated = table.filter(pl.col("prompt_id").is_duplicated())["prompt_id"].unique().to_list()
    if repeated:
        raise ValueError(f"prompt ids must be unique; repeated: {sorted(repeated)[:5]}")
    return table
