"""Storyboards: boards one below the other, each with frames of a clip at the left and blocks of text at the right.

Curation draws them of its rows, reports of benchmark items.  No torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from evaluation.drawing.sheet import INK, LINE, ORANGE, QUIET, WASH, Sheet, fitted_size, text_width

EDGE, GUTTER, GAP = 10.0, 22.0, 12.0
"""Points around a page and inside a board, between columns, and between boards."""
SQUARES_PER_LINE = 15


class Block(Protocol):
    """A piece of a board's right side."""

    def draw(self, sheet: Sheet, x: float, y: float, width: float, size: float) -> float:
        """Draws itself with letters of `size` points; returns where the next block begins."""
        ...


@dataclass(frozen=True)
class Text:
    """A paragraph; `label` stands at its left, `mark` at the right end of its first line."""

    text: str
    bold: bool = False
    colour: str = INK
    max_lines: int = 99
    label: str = ""
    mark: str = ""

    def draw(self, sheet: Sheet, x: float, y: float, width: float, size: float) -> float:
        quiet = QUIET if self.colour == INK else self.colour
        indent = 4.8 * size if self.label else 0.0
        sheet.text(x, y + 0.15 * size, self.label, 0.8 * size, quiet)
        sheet.text(x + width, y, self.mark, size, self.colour, anchor="ra")
        room = width - indent - (text_width(self.mark, size) + size if self.mark else 0.0)
        colour = INK if self.label else self.colour
        y = sheet.paragraph(x + indent, y, room, self.text, size, colour, self.bold, self.max_lines)
        return y + 0.3 * size


@dataclass(frozen=True)
class Squares:
    """A square for each of some things of which there are many, full or crossed out, and a caption behind them."""

    full: int
    crossed: int = 0
    empty: int = 0
    colours: tuple[str, str, str] = (INK, INK, INK)
    caption: str = ""

    def draw(self, sheet: Sheet, x: float, y: float, width: float, size: float) -> float:
        kinds = [0] * self.full + [1] * self.crossed + [2] * self.empty
        side, left = 0.75 * size, x
        for number, kind in enumerate(kinds):
            if number and number % SQUARES_PER_LINE == 0:
                left, y = x, y + 1.2 * size
            colour = self.colours[kind]
            sheet.box(left, y + 0.2 * size, side, side, None if kind else colour, colour, radius=1)
            if kind == 1:
                sheet.text(left + side / 2, y + 0.2 * size + side / 2, "✗", 0.6 * size, colour, anchor="mm")
            left += 1.15 * size
        sheet.text(left, y + 0.575 * size, self.caption, 0.8 * size, self.colours[0], anchor="lm")
        return y + 1.6 * size if kinds or self.caption else y


@dataclass(frozen=True)
class Columns:
    """Blocks side by side."""

    columns: Sequence[Sequence[Block]]

    def draw(self, sheet: Sheet, x: float, y: float, width: float, size: float) -> float:
        each = (width - GUTTER * (len(self.columns) - 1)) / len(self.columns)
        ends = [
            draw_blocks(sheet, blocks, x + number * (each + GUTTER), y, each, size)
            for number, blocks in enumerate(self.columns)
        ]
        return max(ends, default=y)


@dataclass(frozen=True)
class BoardFrame:
    """A frame (uint8 RGB) and its caption; one of the future has an orange edge and a bold caption."""

    pixels: np.ndarray
    caption: str
    future: bool = False


@dataclass(frozen=True)
class Board:
    """One row or item.  `frames`: or the reason why there are none; `stripe`: the colour of the left edge."""

    title: str
    detail: str
    frames: Sequence[BoardFrame] | str
    blocks: Sequence[Block]
    stripe: str | None = None


@dataclass(frozen=True)
class Layout:
    """Points: of the page, the frames' part of a board, the tallest frame, and letters."""

    width: float
    frames: float
    frame_height: float
    size: float = 10.0


def storyboard(
    boards: Sequence[Board], layout: Layout, heading: Sequence[Text] = (), colours: int | None = None
) -> bytes:
    """A PNG of boards, one below the other under the page's heading; `colours`: of its palette, None for all."""
    blank = Sheet(1, 1)  # everything is laid out first, to know how tall the page is
    heights = [_board(blank, board, layout, 0.0) for board in boards]
    above = EDGE, EDGE, layout.width - 2 * EDGE, 1.3 * layout.size
    top = draw_blocks(blank, heading, *above) + (EDGE if heading else 0.0)
    sheet = Sheet(layout.width, top + sum(heights) + GAP * len(boards))
    draw_blocks(sheet, heading, *above)
    for board, height in zip(boards, heights, strict=True):
        sheet.box(EDGE / 2, top, layout.width - EDGE, height, WASH, LINE)
        if board.stripe:
            sheet.box(EDGE / 2, top, 5, height, board.stripe, radius=2)
        _board(sheet, board, layout, top)
        top += height + GAP
    return sheet.png(colours)


def draw_blocks(sheet: Sheet, blocks: Sequence[Block], x: float, y: float, width: float, size: float) -> float:
    """Blocks one below the other; returns where they end."""
    for block in blocks:
        y = block.draw(sheet, x, y, width, size)
    return y


def _board(sheet: Sheet, board: Board, layout: Layout, top: float) -> float:
    """Draws a board; returns its height."""
    left, size, y = EDGE + 8, layout.size, top + 8
    sheet.text(left, y, board.title, 1.25 * size, bold=True)
    beside = text_width(board.title, 1.25 * size, bold=True) + 10 if board.title else 0.0
    room = layout.width - left - beside - EDGE - 8
    sheet.paragraph(left + beside, y + 0.3 * size, room, board.detail, 0.8 * size, QUIET, max_lines=1)
    y += 2 * size
    x = left + layout.frames + GUTTER
    bottom = draw_blocks(sheet, board.blocks, x, y, layout.width - x - EDGE - 8, size)
    if isinstance(board.frames, str):
        sheet.missing(left, y, layout.frames, 6 * size, board.frames)
        return max(bottom, y + 6 * size) + 8 - top
    return max(bottom, _frames(sheet, board.frames, layout, left, y)) + 8 - top


def _frames(sheet: Sheet, frames: Sequence[BoardFrame], layout: Layout, left: float, top: float) -> float:
    """Draws frames from left to right, two or four a line where they are wide; returns where they end."""
    per_line, small = (2 if len(frames) <= 4 else 4), 0.8 * layout.size
    cell = (layout.frames - 8 * (per_line - 1)) / per_line
    x, y, bottom = left, top, top
    for frame in frames:
        width, height = fitted_size(frame.pixels, cell, layout.frame_height)
        if x + width > left + layout.frames:
            x, y = left, bottom
        sheet.image(x, y, width, height, frame.pixels, ORANGE if frame.future else LINE, 1.5 if frame.future else 1)
        sheet.text(x, y + height + 3, frame.caption, small, QUIET, frame.future)
        x += max(width, text_width(frame.caption, small, frame.future)) + 8
        bottom = max(bottom, y + height + 3 + 1.6 * small)
    return bottom
