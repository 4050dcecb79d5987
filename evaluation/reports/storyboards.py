"""Storyboards of FutureBench answers: a clip's frames, the question with its options, and the answer in its segments.

Items are sampled by a hash of their id from all correct and from all incorrect answers, every depth in turn.  No torch:
drawn from the items' clips and their graded answers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from evaluation.benchmarks.benchmark import sample_in_turns
from evaluation.benchmarks.futurebench_items import SPLIT_LABELS
from evaluation.benchmarks.options import LETTERS
from evaluation.drawing.sheet import BLUE, PURPLE, QUIET, VERMILION, look_alike
from evaluation.drawing.storyboard import Block, Board, BoardFrame, Columns, Layout, Squares, Text, storyboard
from evaluation.generation.segments import Segment, segments
from training.data.video import UnreadableVideo, read_frames
from training.storage.files import atomic_write
from training.storage.hashing import stable_hash
from training.storage.parquet import read_parquet

BOARDS = {"storyboard_correct.png": True, "storyboard_incorrect.png": False}
"""The files, and whether their answers are correct."""
FRAMES = 4
LAYOUT = Layout(1010.0, 232.0, 112.0)
MAX_LINES = 6
"""Lines of one segment of an answer; the rest is cut, with an ellipsis at the end."""
MAX_SQUARES = 12


def write_storyboards(items: Path, graded: Path, folder: Path, model: str, each: int = 5, seed: int = 0) -> list[Path]:
    """Writes the files of BOARDS with at most `each` items, and returns their paths.

    items, graded: parquet of benchmarks.futurebench.ItemTable and `graded`.  Where no answer is correct (or incorrect)
    there is no such file.
    """
    columns = read_parquet(graded).select("id", "text", "parsed", "correct")
    table = read_parquet(items).join(columns, on="id", maintain_order="left")
    written = []
    for name, correct in BOARDS.items():
        if rows := sample_items(table.filter(pl.col("correct") == correct), each, seed):
            page = storyboard([board_of(row) for row in rows], LAYOUT, heading(len(rows), model, correct))
            with atomic_write(folder / name) as fresh:
                fresh.write_bytes(page)
            written.append(folder / name)
    return written


def sample_items(table: pl.DataFrame, n: int, seed: int) -> list[dict[str, Any]]:
    """At most n rows, every depth in turn in the order of a hash of their ids; the shallowest come first."""
    depths: dict[str, list[dict[str, Any]]] = {depth: [] for depth in SPLIT_LABELS}
    for row in sorted(table.iter_rows(named=True), key=lambda row: stable_hash(seed, row["id"])):
        depths.setdefault(row["question_type"], []).append(row)
    return sample_in_turns(list(depths.values()), n)


def heading(n: int, model: str, correct: bool) -> list[Text]:
    """The lines over the boards."""
    word, mark, colour = ("correct", "✓", BLUE) if correct else ("incorrect", "✗", VERMILION)
    return [
        Text(f"{mark} {n} {word} answer{'s' * (n != 1)} of {model}", bold=True, colour=colour),
        Text(f"A random sample of all its {word} answers, every depth in turn.", colour=QUIET),
    ]


def board_of(row: Mapping[str, Any]) -> Board:
    """A row of items joined with their graded answers (text, parsed)."""
    question: list[Block] = [Text(row["question"], bold=True, max_lines=5)]
    question += [_option(letter, text, row) for letter, text in zip(LETTERS, row["options"], strict=False)]
    if row["parsed"] is None:
        question.append(Text("✗ the answer names none of them", colour=VERMILION))
    columns = Columns([question, [_block(segment) for segment in segments(row["text"])]])
    colour = BLUE if row["parsed"] == row["answer"] else VERMILION
    depth = SPLIT_LABELS.get(row["question_type"], row["question_type"])
    return Board("", f"{depth} · {row['id']}", _frames(row), [columns], colour)


def _option(letter: str, text: str, row: Mapping[str, Any]) -> Text:
    """An option; words say which one is true and which one was chosen, colours only repeat it."""
    words = [word for word, column in (("true", "answer"), ("chosen", "parsed")) if row[column] == letter]
    if not words:
        return Text(f"{letter}. {text}", max_lines=4)
    mark, colour = ("✓", BLUE) if "true" in words else ("✗", VERMILION)
    return Text(f"{letter}. {text}", bold=True, colour=colour, max_lines=4, mark=f"{mark} {' and '.join(words)}")


def _block(segment: Segment) -> Block:
    """A segment of the answer; a span has a square for each latent."""
    if segment.kind == "span":
        caption = f"{segment.latents} latent{'s' * (segment.latents != 1)}"
        return Squares(min(segment.latents, MAX_SQUARES), colours=(PURPLE,) * 3, caption=caption)
    label = segment.kind if segment.kind in ("reason", "answer") else ""
    return Text(segment.text, bold=segment.kind == "answer", max_lines=MAX_LINES, label=label)


def _frames(row: Mapping[str, Any]) -> list[BoardFrame] | str:
    """Frames spread evenly over the clip, or why there are none; those that look like the one before stand with it."""
    numbers = sorted({round(i) for i in np.linspace(0, row["frame_count"] - 1, FRAMES)})
    try:
        frames = read_frames(row["path"], numbers, row["reader"])
    except (UnreadableVideo, ValueError, OSError):
        return "the clip cannot be read"
    runs: list[list[int]] = []
    distinct: list[np.ndarray] = []
    for frame, number in zip(frames, numbers, strict=True):
        if distinct and look_alike(frame, distinct[-1]):
            runs[-1].append(number)
        else:
            distinct.append(frame)
            runs.append([number])
    return [BoardFrame(frame, _caption(run)) for frame, run in zip(distinct, runs, strict=True)]


def _caption(run: Sequence[int]) -> str:
    return f"frame {run[0]}" if len(run) == 1 else f"frames {run[0]} to {run[-1]}"
