"""The style of every plot: size, type, axes, and colours that colour-blind readers tell apart (Okabe and Ito; Tol).

Colour never carries a meaning alone: models are named beside their marks, or have a marker of their own, too.
"""

import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.drawing.sheet import INK, QUIET

MODEL_COLOURS = {
    "base": "#bbbbbb", "text_only": "#e69f00", "random": "#d55e00", "future_l1": "#0072b2", "la_dapo": "#009e73",
    "grpo": "#cc79a7", "dapo": "#56b4e9", "dapo_ctr": "#332288", "dapo_div": "#882255", "grpo_text_only": "#ddcc77",
    "dapo_text_only": "#8c6d31", "random_targets": "#661100", "la_dapo_5k": "#b8f0dd", "la_dapo_20k": "#003b2b",
}  # fmt: skip
OTHER_COLOURS = ("#c51b7d", "#7f7fff", "#999933", "#000000", "#2d2dff", "#00ffff")
MARKERS = "osD^vPX<>*"
SPAN_COLOURS = {"0": "#e4e4e4", "1": "#c6dbef", "2": "#6baed6", "3": "#2171b5", ">3": "#08306b"}
FAINT, GRID = "#bbbbbb", "#e8e8e8"
DASHED = (0, (4, 3))
DPI = 160


@dataclass(frozen=True)
class ModelStyle:
    colour: str
    marker: str


def model_styles(models: Iterable[str]) -> dict[str, ModelStyle]:
    """A colour and a marker for each model; a known recipe has the same colour in every figure."""
    free_colours, markers = itertools.cycle(OTHER_COLOURS), itertools.cycle(MARKERS)
    return {name: ModelStyle(MODEL_COLOURS.get(name) or next(free_colours), next(markers)) for name in models}


def plain(text: str) -> str:
    """A name as it is: matplotlib reads what stands between dollar signs as mathematics."""
    return text.replace("$", r"\$")


def canvas(width: float, height: float, columns: int = 1, lines: int = 1, **subplots: Any) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, line by line; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False, **subplots).flat)
    for each in axes:
        style_axes(each)
    return figure, axes


def style_axes(axes: Axes, grid: Literal["both", "x", "y"] = "y") -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(length=0, labelsize=8, colors=INK)
    axes.grid(visible=False)
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.label.set(size=8, color=QUIET)
    axes.yaxis.label.set(size=8, color=QUIET)


def title(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=9, color=INK)


def legend(figure: Figure, handles: Sequence[Artist], labels: Sequence[str], heading: str | None = None) -> None:
    """Below the panels, or at their right under a heading."""
    shape = {"title": heading, "title_fontsize": 8} if heading else {"ncols": len(labels)}
    loc = f"outside {'right' if heading else 'lower'} center"
    figure.legend(handles, labels, frameon=False, fontsize=8, loc=loc, **shape)


def named_rows(axes: Sequence[Axes], names: Sequence[str]) -> None:
    """Rows with names from top to bottom, in panels that share them."""
    for each in axes:
        style_axes(each, grid="x")
        each.set_yticks(range(len(names)), [plain(name) for name in names])
        each.set_ylim(max(1, len(names)) - 0.5, -0.5)
        each.tick_params(axis="y", labelsize=8.5)


def whiskers(value: float, interval: Sequence[float]) -> list[list[float]]:
    """The interval of one value as matplotlib's error bar wants it: below and above, neither negative."""
    return [[max(0.0, value - interval[0])], [max(0.0, interval[1] - value)]]


def dot(
    axes: Axes, x: float | None, y: float, interval: Sequence[float], colour: str, face: str = "", marker: str = "o",
    size: float = 5.5,
) -> None:  # fmt: skip
    """A marker with its horizontal interval, or nothing where there is no value; `face`: its inner colour."""
    if x is not None:
        axes.errorbar(x, y, xerr=whiskers(x, interval), fmt=marker, markersize=size, markerfacecolor=face or colour,
                      color=colour, elinewidth=1.4, capsize=2.5)  # fmt: skip


def value_of(score: Mapping[str, Any]) -> float | None:
    """The value of a proportion or mean as evaluation.statistics writes it."""
    value = score["accuracy"] if "accuracy" in score else score["mean"]
    return None if value is None else float(value)


def percent_axis(axes: Axes, which: str = "y") -> None:
    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")


def png(figure: Figure) -> bytes:
    """PNG bytes; the same numbers give the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
