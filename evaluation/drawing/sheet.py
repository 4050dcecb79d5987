"""The drawing kit for pictures of frames and text (Pillow): a page, its fonts, and the palette that plots share.

Lengths are in points of the finished page; the PNG has `SCALE` pixels a point, so that it is sharp on any screen.
Text is data: no markup is read in it.  The colours are those of Okabe and Ito, which colour-blind readers tell apart;
colour never carries a meaning alone.
"""

import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SCALE = 2
DUPLICATE_LEVELS = 2.0
"""Largest mean difference, in levels of 255, of two frames that people take for the same."""
INK, QUIET, LINE, WASH = "#222222", "#6b6b6b", "#dddddd", "#f6f7f8"
BLUE, ORANGE, GREEN, VERMILION, PURPLE = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#aa4488"


class Sheet:
    """A white page of `width` x `height` points."""

    def __init__(self, width: float, height: float) -> None:
        self._page = Image.new("RGB", (round(width * SCALE), round(height * SCALE)), "white")
        self._draw = ImageDraw.Draw(self._page)

    def text(
        self, x: float, y: float, text: str, size: float = 10, colour: str = INK, bold: bool = False, anchor: str = "la"
    ) -> None:
        """One line at its upper left corner, or at another of Pillow's anchors ("ma", "rm", ...)."""
        text = text.encode("utf-8", "replace").decode()  # a lone surrogate, as an answer may hold, cannot be drawn
        self._draw.text((x * SCALE, y * SCALE), text, colour, _font(size, bold), anchor=anchor)

    def paragraph(
        self, x: float, y: float, width: float, text: str, size: float = 10, colour: str = INK, bold: bool = False,
        max_lines: int = 99,
    ) -> float:  # fmt: skip
        """At most `max_lines` lines of at most `width`; returns where the next line would begin."""
        for line in wrapped(text, width, size, bold, max_lines):
            self.text(x, y, line, size, colour, bold)
            y += line_height(size)
        return y

    def image(
        self, x: float, y: float, width: float, height: float, pixels: np.ndarray, edge: str = LINE,
        thickness: float = 1,
    ) -> None:  # fmt: skip
        """uint8 [H,W,3], as large as it fits into the box, in its middle."""
        wide, high = fitted_size(pixels, width, height)
        size = round(wide * SCALE), round(high * SCALE)
        resample = Image.Resampling.NEAREST if size[0] > pixels.shape[1] else Image.Resampling.LANCZOS
        left, top = round((x + (width - wide) / 2) * SCALE), round((y + (height - high) / 2) * SCALE)
        if left >= self._page.width or top >= self._page.height:  # a page that is only laid out
            return
        self._page.paste(Image.fromarray(pixels).resize(size, resample), (left, top))
        margin = round(thickness * SCALE)
        box = (left - margin, top - margin, left + size[0] + margin - 1, top + size[1] + margin - 1)
        self._draw.rectangle(box, outline=edge, width=margin)

    def box(
        self, x: float, y: float, width: float, height: float, fill: str | None = None, edge: str | None = None,
        radius: float = 4,
    ) -> None:  # fmt: skip
        """A rectangle with round corners."""
        corners = (x * SCALE, y * SCALE, (x + width) * SCALE, (y + height) * SCALE)
        self._draw.rounded_rectangle(corners, radius * SCALE, fill, edge, SCALE)

    def missing(self, x: float, y: float, width: float, height: float, reason: str) -> None:
        """The place of a picture that does not exist, and why."""
        self.box(x, y, width, height, WASH, LINE, 2)
        lines = wrapped(reason, width - 12, 8, max_lines=3)
        for number, line in enumerate(lines):
            middle = y + height / 2 + (number - (len(lines) - 1) / 2) * line_height(8)
            self.text(x + width / 2, middle, line, 8, QUIET, anchor="mm")

    def png(self, colours: int | None = None) -> bytes:
        """The page as a PNG, with a palette of so many colours if given; the same calls give the same bytes."""
        buffer = io.BytesIO()
        (self._page.quantize(colours) if colours else self._page).save(buffer, "PNG")
        return buffer.getvalue()


def fitted_size(pixels: np.ndarray, width: float, height: float) -> tuple[float, float]:
    """Width and height in points of a frame [H,W,3] inside a box; enlarged in whole steps: its pixels stay crisp."""
    rows, columns = pixels.shape[:2]
    scale = min(width * SCALE / columns, height * SCALE / rows)
    scale = int(scale) if scale >= 2 else scale
    return max(1, round(columns * scale)) / SCALE, max(1, round(rows * scale)) / SCALE


def look_alike(frame: np.ndarray, other: np.ndarray) -> bool:
    """Whether people would take two frames (uint8 [H,W,3]) of a clip for the same."""
    return bool(np.abs(frame.astype(np.int16) - other).mean() < DUPLICATE_LEVELS)


def shaped_like(painting: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """A painting of few pixels at the size of the frame that it stands for, whose shape its grid only comes near to."""
    size = frame.shape[1], frame.shape[0]
    return np.asarray(Image.fromarray(painting).resize(size, Image.Resampling.NEAREST))


def line_height(size: float) -> float:
    """From one line of a paragraph to the next."""
    return round(size * 1.35, 1)


def text_width(text: str, size: float, bold: bool = False) -> float:
    """The width of a line in points."""
    return _font(size, bold).getlength(text.encode("utf-8", "replace").decode()) / SCALE


def wrapped(text: str, width: float, size: float, bold: bool = False, max_lines: int = 99) -> list[str]:
    """Lines of at most `width`; what does not fit into `max_lines` lines is cut, with an ellipsis at the end."""
    lines = [line for part in text.splitlines() for line in _lines(part, width, size, bold)]
    if len(lines) <= max_lines:
        return lines
    last = lines[max_lines - 1]
    while last and text_width(last + "…", size, bold) > width:
        last = last[:-1]
    return [*lines[: max_lines - 1], last + "…"]


def _lines(part: str, width: float, size: float, bold: bool) -> Iterator[str]:
    """One line of the text in as many as it needs; a word that is too long is broken."""
    line = ""
    for word in part.split():
        if text_width(f"{line} {word}".strip(), size, bold) <= width:
            line = f"{line} {word}".strip()
            continue
        if line:
            yield line
        while text_width(word, size, bold) > width and len(word) > 1:
            fits = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or text_width(word[:n], size, bold) <= width)
            yield word[:fits]
            word = word[fits:]
        line = word
    if line:
        yield line


@cache
def _font(size: float, bold: bool) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: the same on every machine."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size * SCALE)
