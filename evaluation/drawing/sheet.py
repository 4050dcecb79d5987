"""A sheet of pictures and text, drawn with Pillow: what `retrieved_frames.png` and the storyboards are made of.

Lengths are in points of the finished page; the PNG has `SCALE` pixels a point, so that it is sharp on any screen.
Text is data: no markup is read in it.  Colours are those of Okabe and Ito, which colour-blind readers tell apart, and
nothing is said by colour alone.
"""

import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SCALE = 2
ALIKE = 2.0
"""Mean difference of two frames that people would take for one, in levels of 255."""
INK, QUIET, LINE, WASH = "#222222", "#6b6b6b", "#dddddd", "#f6f7f8"
BLUE, ORANGE, GREEN, VERMILLION, PURPLE = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#aa4488"


class Sheet:
    """A white page of `width` x `height` points."""

    def __init__(self, width: float, height: float) -> None:
        self._page = Image.new("RGB", (round(width * SCALE), round(height * SCALE)), "white")
        self._draw = ImageDraw.Draw(self._page)

    def text(
        self, x: float, y: float, said: str, size: float = 10, colour: str = INK, bold: bool = False, anchor: str = "la"
    ) -> None:
        """One line at its upper left corner, or at another of Pillow's anchors ("ma", "rm", ...)."""
        said = said.encode("utf-8", "replace").decode()  # half a character, as an answer may hold, cannot be drawn
        self._draw.text((x * SCALE, y * SCALE), said, colour, _font(size, bold), anchor=anchor)

    def paragraph(
        self, x: float, y: float, width: float, said: str, size: float = 10, colour: str = INK, bold: bool = False,
        most: int = 99,
    ) -> float:  # fmt: skip
        """Lines of at most `width`, at most so many; returns where the next line would begin."""
        for line in wrapped(said, width, size, bold, most):
            self.text(x, y, line, size, colour, bold)
            y += line_height(size)
        return y

    def image(
        self, x: float, y: float, width: float, height: float, pixels: np.ndarray, edge: str = LINE,
        thick: float = 1,
    ) -> None:  # fmt: skip
        """uint8 [H,W,3], as large as it fits into the box, in its middle; a small one shows its pixels as they are."""
        scale = min(width / pixels.shape[1], height / pixels.shape[0]) * SCALE
        size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
        how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
        left, top = round(x * SCALE + (width * SCALE - size[0]) / 2), round(y * SCALE + (height * SCALE - size[1]) / 2)
        self._page.paste(Image.fromarray(pixels).resize(size, how), (left, top))
        grown = round(thick * SCALE)
        box = (left - grown, top - grown, left + size[0] + grown - 1, top + size[1] + grown - 1)
        self._draw.rectangle(box, outline=edge, width=grown)

    def box(
        self, x: float, y: float, width: float, height: float, fill: str | None = None, edge: str | None = None,
        radius: float = 4,
    ) -> None:  # fmt: skip
        """A rectangle with round corners."""
        corners = (x * SCALE, y * SCALE, (x + width) * SCALE, (y + height) * SCALE)
        self._draw.rounded_rectangle(corners, radius * SCALE, fill, edge, SCALE)

    def missing(self, x: float, y: float, width: float, height: float, said: str) -> None:
        """The place of a picture that there is not, and why."""
        self.box(x, y, width, height, WASH, LINE, 2)
        self.text(x + width / 2, y + height / 2, said, 8, QUIET, anchor="mm")

    def png(self) -> bytes:
        """The page; the same calls give the same bytes."""
        buffer = io.BytesIO()
        self._page.save(buffer, "PNG", optimize=True)
        return buffer.getvalue()


def look_alike(frame: np.ndarray, other: np.ndarray) -> bool:
    """Whether people would take two frames (uint8 [H,W,3]) of a clip for one."""
    return bool(np.abs(frame.astype(np.int16) - other).mean() < ALIKE)


def shaped_like(painted: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """A painting of few pixels at the size of the frame that it stands for, whose shape its grid only comes near to."""
    size = frame.shape[1], frame.shape[0]
    return np.asarray(Image.fromarray(painted).resize(size, Image.Resampling.NEAREST))


def line_height(size: float) -> float:
    """From one line of a paragraph to the next."""
    return round(size * 1.35, 1)


def text_width(said: str, size: float, bold: bool = False) -> float:
    """How wide a line is."""
    return _font(size, bold).getlength(said.encode("utf-8", "replace").decode()) / SCALE


def wrapped(said: str, width: float, size: float, bold: bool = False, most: int = 99) -> list[str]:
    """Lines of at most `width`; what does not fit into `most` lines is cut, and an ellipsis says so."""
    lines = [line for part in said.splitlines() for line in _lines(part, width, size, bold)]
    if len(lines) <= most:
        return lines
    last = lines[most - 1]
    while last and text_width(last + "…", size, bold) > width:
        last = last[:-1]
    return [*lines[: most - 1], last + "…"]


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
