"""Figures of a publication as PNG bytes, in the style of `evaluation.figures`."""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEPT, SAMPLE, INK, QUIET = "#0072b2", "#c8c8c8", "#222222", "#6b6b6b"


def gain_bars(kept: Mapping[str, int], audited: Mapping[str, int]) -> bytes:
    """Published rows by gain, and beside them the audit sample, which stands for all scored rows.  Keys are gains."""
    figure, (left, right) = _canvas(2, 8.6)
    _bars(left, kept, KEPT, f"kept rows (n = {sum(kept.values()):,})")
    _bars(right, audited, SAMPLE, f"rows scored in full whatever their fate (n = {sum(audited.values()):,})")
    for axes in (left, right):
        axes.set_xlabel("visual gain: right answers with the hint minus right answers without")
    left.set_ylabel("rows")
    return _png(figure)


def composition_bars(categories: Mapping[str, int], future_frames: Mapping[str, int]) -> bytes:
    """Published rows by category and by number of future frames."""
    figure, (left, right) = _canvas(2, 7.2)
    _bars(left, categories, KEPT, "category")
    _bars(right, future_frames, KEPT, "future frames per row")
    left.set_ylabel("rows")
    return _png(figure)


def _bars(axes: "Axes", counts: Mapping[str, int], colour: str, title: str) -> None:
    names, total = list(counts), max(1, sum(counts.values()))
    axes.bar(range(len(names)), [counts[name] for name in names], color=colour, width=0.82)
    top = max([1, *counts.values()])
    for x, name in enumerate(names):
        said = f"{counts[name]:,}\n{100 * counts[name] / total:.1f} %" if len(names) < 10 else f"{counts[name]:,}"
        axes.text(x, counts[name] + 0.015 * top, said, ha="center", va="bottom", fontsize=7, color=QUIET)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0, 1.18 * top)
    axes.set_title(title, fontsize=9, color=INK)


def _canvas(panels: int, width: float) -> tuple["Figure", list["Axes"]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 3.4), layout="constrained")
    shown = list(figure.subplots(1, panels))
    for axes in shown:
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0, labelsize=8, colors=INK)
        axes.grid(axis="y", color="#e8e8e8", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.xaxis.label.set(size=8, color=QUIET)
        axes.yaxis.label.set(size=8, color=QUIET)
    return figure, shown


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})  # the same numbers, the same bytes
    return buffer.getvalue()
