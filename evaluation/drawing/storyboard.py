"""Storyboards: for some FutureBench items what was seen, what was said, where latents stood in it, and what was true.

Items are drawn by lot from all that are right and from all that are wrong, every depth in turn: nobody picks them.  No
torch: drawn from the items' clips and their graded answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from evaluation.benchmarks.choice import LETTERS
from evaluation.drawing.sheet import (
    BLUE,
    INK,
    LINE,
    PURPLE,
    QUIET,
    VERMILLION,
    WASH,
    Sheet,
    line_height,
    look_alike,
    text_width,
    wrapped,
)
from evaluation.generation.segments import Part, parts
from training.data.video import UnreadableVideo, read_frames
from training.storage.files import whole
from training.storage.hashing import stable_hash
from training.storage.parquet import read_parquet

BOARDS = {"storyboard_right.png": True, "storyboard_wrong.png": False}
FRAMES, FRAME, EDGE, GAP = 4, 112.0, 16.0, 14.0
SEEN, ASKED, SAID = 2 * FRAME + 8, 300.0, 380.0
WIDTH = 2 * EDGE + SEEN + ASKED + SAID + 2 * 22 + 20
TEXT, SMALL = 10.0, 8.0
MOST_LINES = 6
"""Of one piece of an answer; the rest is cut, and an ellipsis says so."""
DEPTHS = {"hop1": "1 hop", "hop2": "2 hops", "hop3": "3 hops", "hop5": "interpolation"}


@dataclass(frozen=True)
class Board:
    """One item: frames (uint8 RGB) with their captions, or why there are none; the letters chosen (None: no option
    could be read) and true; and what was said."""

    id: str
    depth: str
    frames: Sequence[np.ndarray]
    captions: Sequence[str]
    question: str
    options: Sequence[str]
    chosen: str | None
    true: str
    said: Sequence[Part]


def write_storyboards(items: Path, graded: Path, folder: Path, model: str, each: int = 5, seed: int = 0) -> list[Path]:
    """Writes `storyboard_right.png` and `storyboard_wrong.png` with at most `each` items, and returns what it wrote.

    items, graded: parquet of benchmarks.futurebench.ItemTable and `graded`.  Where no item is right (or wrong) there is
    no such board.
    """
    table = read_parquet(items).join(
        read_parquet(graded).select("id", "text", "parsed", "correct"), on="id", maintain_order="left"
    )
    written = []
    for name, right in BOARDS.items():
        chosen = drawn_by_lot(table.filter(pl.col("correct") == right), each, seed)
        if chosen:
            with whole(folder / name) as fresh:
                fresh.write_bytes(storyboard([board_of(row) for row in chosen], model, right))
            written.append(folder / name)
    return written


def drawn_by_lot(table: pl.DataFrame, most: int, seed: int) -> list[dict[str, Any]]:
    """At most so many rows, of every depth in turn and else by lot, the shallowest first."""
    depths: dict[str, list[dict[str, Any]]] = {depth: [] for depth in DEPTHS}
    for row in sorted(table.iter_rows(named=True), key=lambda row: stable_hash(seed, row["id"])):
        depths.setdefault(row["question_type"], []).append(row)
    turns = [(turn, place) for place, rows in enumerate(depths.values()) for turn in range(len(rows))]
    kept = [list(depths.values())[place][turn] for turn, place in sorted(turns)[:most]]
    return sorted(kept, key=lambda row: list(depths).index(row["question_type"]))


def board_of(row: Mapping[str, Any]) -> Board:
    """A row of items joined with their graded answers (text, parsed); a clip that cannot be read has no frames."""
    numbers = sorted({round(i) for i in np.linspace(0, row["frame_count"] - 1, FRAMES)})
    try:
        frames = read_frames(row["path"], numbers, row["reader"])
    except (UnreadableVideo, ValueError, OSError):
        frames, numbers = [], []
    shown, captions = _without_repeats(frames, numbers)
    return Board(
        row["id"],
        DEPTHS.get(row["question_type"], row["question_type"]),
        shown,
        captions,
        row["question"],
        row["options"],
        row["parsed"],
        row["answer"],
        parts(row["text"]),
    )


def _without_repeats(frames: Sequence[np.ndarray], numbers: Sequence[int]) -> tuple[list[np.ndarray], list[str]]:
    """Frames that look like the one before are shown once, with the numbers of all."""
    shown: list[np.ndarray] = []
    runs: list[list[int]] = []
    for frame, number in zip(frames, numbers, strict=True):
        if shown and look_alike(frame, shown[-1]):
            runs[-1].append(number)
        else:
            shown.append(frame)
            runs.append([number])
    return shown, [f"frame {run[0]}" if len(run) == 1 else f"frames {run[0]} to {run[-1]}" for run in runs]


def storyboard(boards: Sequence[Board], model: str, right: bool) -> bytes:
    """A PNG of items one below the other, all of them right or all of them wrong."""
    heights = [_height(board) for board in boards]
    sheet = Sheet(WIDTH, 66 + sum(heights) + GAP * len(boards))
    word, mark = ("right", "✓") if right else ("wrong", "✗")
    sheet.text(EDGE, 12, f"{mark} {len(boards)} answers of {model} that are {word}", 15, _colour(right), bold=True)
    sheet.text(EDGE, 36, f"Drawn by lot from all its {word} answers, every depth in turn.", 9, QUIET)
    for column, title in zip(_columns(), ("what it saw", "what it was asked", "what it said"), strict=True):
        sheet.text(column, 52, title, SMALL, QUIET)
    top = 66.0
    for board, height in zip(boards, heights, strict=True):
        _board(sheet, board, top, height)
        top += height + GAP
    return sheet.png()


def _columns() -> tuple[float, float, float]:
    return EDGE + 10, EDGE + 10 + SEEN + 22, EDGE + 10 + SEEN + 22 + ASKED + 22


def _colour(right: bool) -> str:
    return BLUE if right else VERMILLION


def _board(sheet: Sheet, board: Board, top: float, height: float) -> None:
    seen, asked, said = _columns()
    sheet.box(EDGE - 6, top, WIDTH - 2 * EDGE + 12, height, WASH, LINE)
    sheet.box(EDGE - 6, top, 5, height, _colour(board.chosen == board.true), radius=2)
    top += 10
    sheet.text(seen, top, f"{board.depth} · {board.id}", SMALL, QUIET)
    _frames(sheet, board, seen, top + 14)
    y = sheet.paragraph(asked, top, ASKED, board.question, TEXT, INK, bold=True, most=5) + 6
    for letter, option in zip(LETTERS, board.options, strict=False):
        y = _option(sheet, board, letter, option, asked, y)
    if board.chosen is None:
        sheet.text(asked, y + 2, "✗ the answer names none of them", TEXT, VERMILLION)
    y = top
    for part in board.said:
        y = _said(sheet, part, said, y)


def _frames(sheet: Sheet, board: Board, left: float, top: float) -> None:
    """Frames two by two, with their numbers."""
    high = _frame_height(board)
    if not board.frames:
        sheet.missing(left, top, SEEN, high, "the clip cannot be read")
    for place, (frame, caption) in enumerate(zip(board.frames, board.captions, strict=True)):
        x, y = left + (place % 2) * (FRAME + 8), top + (place // 2) * (high + 16)
        sheet.image(x, y, FRAME, high, frame)
        sheet.text(x + FRAME / 2, y + high + 7, caption, 7.5, QUIET, anchor="mm")


def _frame_height(board: Board) -> float:
    """Of the tallest frame at full width, but never taller than wide."""
    return FRAME * max((min(1.0, frame.shape[0] / frame.shape[1]) for frame in board.frames), default=0.6)


def _option(sheet: Sheet, board: Board, letter: str, option: str, x: float, y: float) -> float:
    """An option on a line of its own; what is true and what was chosen is said by words, too."""
    told = [word for word, which in (("true", board.true), ("chosen", board.chosen)) if which == letter]
    colour = INK if not told else BLUE if "true" in told else VERMILLION
    lines = wrapped(f"{letter}. {option}", ASKED - 100, TEXT, bool(told), 4)
    for number, line in enumerate(lines):
        sheet.text(x, y + number * line_height(TEXT), line, TEXT, colour, bold=bool(told))
    if told:
        mark = "✓" if "true" in told else "✗"
        sheet.text(x + ASKED, y, f"{mark} {' and '.join(told)}", TEXT, colour, anchor="ra")
    return y + len(lines) * line_height(TEXT) + 3


def _said(sheet: Sheet, part: Part, x: float, y: float) -> float:
    """A piece of the answer below another; a span is a chip with a square for each latent."""
    if part.kind == "span":
        text = f"{part.latents} latent{'' if part.latents == 1 else 's'}"
        squares = min(part.latents, 12)
        wide = 14 + 10 * squares + text_width(text, SMALL) + 6
        sheet.box(x, y, wide, 18, "white", PURPLE, radius=9)
        for number in range(squares):
            sheet.box(x + 8 + 10 * number, y + 5.5, 7, 7, PURPLE, radius=1)
        sheet.text(x + 12 + 10 * squares, y + 9, text, SMALL, PURPLE, anchor="lm")
        return y + 24
    indent = 48.0 if part.kind in ("reason", "answer") else 0.0
    if indent:
        sheet.text(x, y + 1.5, part.kind, SMALL, QUIET)
    bold = part.kind == "answer"
    return sheet.paragraph(x + indent, y, SAID - indent, part.text, TEXT, INK, bold, most=MOST_LINES) + 4


def _height(board: Board) -> float:
    """As tall as the tallest of its three columns: all are laid out on a sheet that nobody sees."""
    blank, (_, asked, said) = Sheet(1, 1), _columns()
    y = blank.paragraph(asked, 0, ASKED, board.question, TEXT, bold=True, most=5) + 6
    for letter, option in zip(LETTERS, board.options, strict=False):
        y = _option(blank, board, letter, option, asked, y)
    told = 0.0
    for part in board.said:
        told = _said(blank, part, said, told)
    rows = max(1, -(-len(board.frames) // 2))
    return 20 + max(14 + rows * (_frame_height(board) + 16), y + line_height(TEXT), told)
