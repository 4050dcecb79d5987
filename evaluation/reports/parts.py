"""The parts of a page: sections of tables, figures and sentences, and the format of a score.

Text from data is untrusted: HTML is escaped by the template, Markdown by `escaped`, and a picture must be a PNG that
decodes.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from training.runtime.printable import escaped

DASH = "–"


@dataclass(frozen=True)
class Cell:
    value: str
    note: str = ""
    code: bool = False
    """A command or a name, in a monospaced font."""
    link: str = ""
    """The anchor on this page that its value leads to."""


@dataclass(frozen=True)
class Row:
    """Cells in the order of the head; a row of one cell is a heading over the rows below it."""

    cells: Sequence[Cell]
    published: bool = False

    @property
    def heading(self) -> bool:
        return len(self.cells) == 1


def row(*cells: Cell | str, published: bool = False) -> Row:
    """A row of cells, and of texts without a note."""
    return Row([Cell(cell) if isinstance(cell, str) else cell for cell in cells], published)


@dataclass(frozen=True)
class Table:
    head: Sequence[str]
    rows: Sequence[Row]
    caption: str = ""
    folded: bool = False
    """Collapsed under its caption."""
    words: bool = False
    """Its cells are words: they are left-aligned, and wrap."""


@dataclass(frozen=True)
class FigureImage:
    name: str
    alt: str
    png: bytes
    caption: str = ""
    anchor: str = ""
    density: float = 1.45
    """Pixels of the file for one of the page, so that letters have one size whatever the figure's width."""

    @property
    def width(self) -> int:
        """Of the page's pixels; a PNG's own width is in its header."""
        return round(int.from_bytes(self.png[16:20], "big") / self.density)

    @property
    def data(self) -> str:
        return base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Link:
    """An artifact of a chain, or all partitions of an asset, without a version."""

    artifact: str
    version: str = ""
    note: str = ""
    kinds: str = ""
    """What the artifacts before it in the chain did with it."""
    link: str = ""
    """The anchor of its rows on this page."""


Chain = Mapping[str, Sequence[Link]]
"""The artifacts that a model's reports were made from, by step: a group of assets."""


@dataclass(frozen=True)
class Section:
    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    figures: Sequence[FigureImage] = ()
    quotes: Sequence[str] = ()
    chains: Mapping[str, Chain] = field(default_factory=dict)
    """By model."""
    note: str = ""

    @property
    def anchor(self) -> str:
        return anchor(self.title)

    def chain_anchor(self, model: str) -> str:
        return chain_anchor(model)


def anchor(*names: str) -> str:
    """The id of an element of the page: of a section by its title."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(names).lower()).strip("-")


def chain_anchor(model: str) -> str:
    """The id of the chain of a model's reports."""
    return anchor("lineage of", model)


def plot(wanted: bool, module: str, name: str, alt: str, *data: Any) -> list[FigureImage]:
    """The plot `name` of a module of plots, or none; imported here, because matplotlib takes a second to load."""
    if not wanted:
        return []
    from evaluation.drawing import latent_plots, run_plots, score_plots

    modules = {"runs": run_plots, "scores": score_plots, "latents": latent_plots}
    return [FigureImage(name, alt, getattr(modules[module], name)(*data))]


def picture(name: str, path: Path, anchor: str = "") -> FigureImage:
    """A PNG file as a figure under its name; raises ValueError for anything else."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.verify()
    except (OSError, SyntaxError) as error:
        raise ValueError(f"picture {name!r}: {path} is no whole PNG: {error}") from error
    caption = " · ".join(name.split("/")[1:] or [name])
    return FigureImage(name, f"{name.split('/')[0]}: {caption}", path.read_bytes(), caption, anchor, 2.0)


def percent(score: Mapping[str, Any]) -> Cell:
    """A proportion of evaluation.statistics: per cent, its interval and its n."""
    if score["accuracy"] is None:
        return Cell(DASH, "n = 0")
    low, high = score["interval"]
    return Cell(f"{100 * score['accuracy']:.1f} %", f"{100 * low:.1f}–{100 * high:.1f}, n = {score['n']:,}")


def mean(score: Mapping[str, Any], places: int = 2) -> Cell:
    """A mean of evaluation.statistics: its value to so many places, its interval and its n."""
    if score["mean"] is None:
        return Cell(DASH, "n = 0")
    low, high = score["interval"]
    return Cell(f"{score['mean']:.{places}f}", f"{low:.{places}f}–{high:.{places}f}, n = {score['n']:,}")


def points(difference: Mapping[str, Any]) -> Cell:
    """A paired difference in points with its interval and n."""
    low, high = difference["interval"]
    bounds = f"{100 * low:+.1f} to {100 * high:+.1f}, n = {difference['n']:,}"
    return Cell(f"{100 * difference['difference']:+.1f}", bounds)


def p_value(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"


def markdown_lines(section: Section) -> list[str]:
    """A section as Markdown; figures are left to the page."""
    lines = [f"## {section.title}", ""]
    lines += [escaped(section.text), ""] if section.text else []
    lines += [line for quote in section.quotes for line in (f"> {escaped(quote)}", "")]
    lines += [line for model, chain in section.chains.items() for line in (_markdown_chain(model, chain), "")]
    for table in section.tables:
        lines += [f"**{escaped(table.caption)}**", ""] if table.caption else []
        lines += [*markdown_table(table), ""]
    return [*lines, escaped(section.note), ""] if section.note else lines


def _markdown_chain(model: str, chain: Chain) -> str:
    steps = []
    for group, links in chain.items():
        names = [" ".join(filter(None, (link.kinds, link.artifact, link.version))) for link in links]
        steps.append(f"{group} {', '.join(names)}")
    return f"**{escaped(model)}**: {escaped(' ← '.join(steps))}"


def shortened(text: str, longest: int) -> str:
    """Text on one line, cut where it is longer than so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def markdown_table(table: Table) -> list[str]:
    rows = [list(table.head), ["---"] * len(table.head)]
    for each in table.rows:
        cells = [escaped(f"{c.value} ({c.note})" if c.note else c.value) for c in each.cells]
        cells = [f"*{cells[0]}*"] if each.heading else cells
        rows.append([*cells, *[""] * (len(table.head) - len(cells))])
    return [f"| {' | '.join(line)} |" for line in rows]
