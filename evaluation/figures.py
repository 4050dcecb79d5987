"""Figures as PNG bytes: one style, intervals drawn, colours that colour-blind readers can tell apart (Okabe, Ito)."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MODEL_COLOURS = {"base": "#9a9a9a", "text_only": "#e69f00", "future_l1": "#0072b2", "la_dapo": "#009e73"}
OTHER_COLOURS = ("#cc79a7", "#d55e00", "#56b4e9", "#f0e442", "#000000")
SPAN_COLOURS = {"0": "#e4e4e4", "1": "#c6dbef", "2": "#6baed6", "3": "#2171b5", ">3": "#08306b"}
INK, QUIET, KEPT, REJECTED = "#222222", "#6b6b6b", "#0072b2", "#c8c8c8"
HOP_LABELS = {"hop1": "1 hop", "hop2": "2 hops", "hop3": "3 hops", "hop5": "interpolation", "average": "average"}
DPI = 160


def gain_histogram(audited: Mapping[str, int], kept: Mapping[str, int]) -> bytes:
    """Kept rows by visual gain, and beside them the rows scored in full whatever their fate, which stand for all.

    Keys are gains as text.
    """
    figure, (left, right) = _panels(6.9)
    known = [int(gain) for gain in (*audited, *kept)]
    gains = [str(gain) for gain in range(min(known, default=-8), max(known, default=8) + 1)]
    shown, sample = ({gain: counts.get(gain, 0) for gain in gains} for counts in (kept, audited))
    _counts(left, shown, KEPT, f"kept rows (n = {sum(kept.values()):,})")
    _counts(right, sample, REJECTED, f"rows scored in full whatever comes out (n = {sum(audited.values()):,})")
    for axes in (left, right):
        axes.set_xlabel("visual gain: right answers, hinted minus plain")
    return _png(figure)


def composition(categories: Mapping[str, int], future_frames: Mapping[str, int]) -> bytes:
    """Published rows by category and by number of future frames."""
    figure, (left, right) = _panels(6.9)
    _counts(left, categories, KEPT, "category")
    _counts(right, future_frames, KEPT, "future frames per row")
    return _png(figure)


def accuracy_by_hop(models: Mapping[str, Mapping[str, Any]], chance: float | None = 0.25) -> bytes:
    """Bars per split and average for each model, with Wilson intervals; models are FutureBench reports."""
    columns = list(HOP_LABELS)
    figure, axes = _canvas(8.6, 3.8)
    width = 0.8 / max(1, len(models))
    for number, (name, report) in enumerate(models.items()):
        cells = [*(report["splits"][c] for c in columns[:-1]), report["average"]]
        at = np.arange(len(columns)) + (number - (len(models) - 1) / 2) * width
        _bars(axes, at, cells, name, number, width)
    if chance is not None:
        axes.axhline(chance, color=QUIET, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        axes.text(len(columns) - 0.48, chance, "chance", va="center", ha="left", fontsize=8, color=QUIET)
    axes.axvspan(len(columns) - 1.5, len(columns) - 0.5, color="#f4f4f4", zorder=-1)
    axes.set_xticks(range(len(columns)), [HOP_LABELS[c] for c in columns])
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("accuracy")
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.legend(frameon=False, ncols=len(models), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return _png(figure)


def spans_by_hop(models: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Share of answers with 0, 1, 2, 3 and more latent spans by depth; one panel a model, the mean above each bar."""
    hops = list(HOP_LABELS)[:-1]
    figure = Figure(figsize=(max(3.6, 2.9 * len(models)), 3.3), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, max(1, len(models)), sharey=True))
    for axes, (name, report) in zip(panels, models.items(), strict=False):
        _style(axes)
        below = np.zeros(len(hops))
        for label, colour in SPAN_COLOURS.items():
            share = np.array([report["spans"][hop]["shares"][label] or 0.0 for hop in hops])
            axes.bar(range(len(hops)), share, bottom=below, color=colour, width=0.72, label=label)
            below += share
        for x, hop in enumerate(hops):
            mean = report["spans"][hop]["mean"]
            if mean is not None:
                axes.text(x, 1.02, f"{mean:.2f}", ha="center", va="bottom", fontsize=9, color=INK)
        axes.set_title(name, fontsize=10, color=INK, pad=22)
        axes.set_xticks(range(len(hops)), ["1", "2", "3", "interp."])
        axes.set_xlabel("hops")
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    panels[0].set_ylabel("answers")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, title="spans", frameon=False, loc="outside right center", reverse=True)
    return _png(figure)


def necessity(models: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Accuracy with the model's own latents and with each replacement, with Wilson intervals."""
    names = list(dict.fromkeys(name for report in models.values() for name in report["interventions"]))
    figure, axes = _canvas(7.2, 3.2)
    width = 0.8 / max(1, len(models))
    for number, (model, report) in enumerate(models.items()):
        found = report["interventions"]
        cells = [report["own"], *(found[n]["accuracy"] if n in found else {"accuracy": None} for n in names)]
        at = np.arange(len(cells)) + (number - (len(models) - 1) / 2) * width
        _bars(axes, at, cells, model, number, width)
    axes.set_xticks(range(len(names) + 1), ["own latents", *(name.replace("_", " ") for name in names)])
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("accuracy")
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.legend(frameon=False, ncols=len(models), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return _png(figure)


def _bars(
    axes: Axes, at: np.ndarray, cells: Sequence[Mapping[str, Any]], model: str, number: int, width: float
) -> None:
    """One model's accuracies with their intervals; a cell without a value is left empty."""
    shown = [(x, cell) for x, cell in zip(at, cells, strict=True) if cell["accuracy"] is not None]
    heights = np.array([cell["accuracy"] for _, cell in shown])
    colour = MODEL_COLOURS.get(model, OTHER_COLOURS[number % len(OTHER_COLOURS)])
    axes.bar([x for x, _ in shown], heights, width=0.92 * width, color=colour, label=model)
    bounds = np.array([cell["interval"] for _, cell in shown]).reshape(-1, 2)
    errors = np.clip([heights - bounds[:, 0], bounds[:, 1] - heights], 0, None)
    axes.errorbar([x for x, _ in shown], heights, errors, fmt="none", ecolor=INK, elinewidth=1, capsize=2)


def _panels(width: float) -> tuple[Figure, list[Axes]]:
    """Two figures of row counts side by side; 6.9 inches are what a dialog of the UI shows whole."""
    figure = Figure(figsize=(width, 3.4), layout="constrained")
    axes = list(figure.subplots(1, 2))
    for each in axes:
        _style(each)
        each.tick_params(labelsize=8)
        each.xaxis.label.set(size=8)
    axes[0].set_ylabel("rows")
    return figure, axes


def _counts(axes: Axes, counts: Mapping[str, int], colour: str, title: str) -> None:
    """A bar for each name, with its count, and its share where there is room."""
    names, total, top = list(counts), max(1, sum(counts.values())), max([1, *counts.values()])
    axes.bar(range(len(names)), [counts[name] for name in names], color=colour, width=0.82)
    for x, name in enumerate(names):
        said = f"{counts[name]:,}\n{100 * counts[name] / total:.1f} %" if len(names) < 10 else f"{counts[name]:,}"
        if counts[name]:
            axes.text(x, counts[name] + 0.015 * top, said, ha="center", va="bottom", fontsize=7, color=QUIET)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0, 1.18 * top)
    axes.set_title(title, fontsize=8, color=INK)


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    _style(axes)
    return figure, axes


def _style(axes: Axes) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#bbbbbb")
    axes.tick_params(length=0, labelsize=9, colors=INK)
    axes.grid(axis="y", color="#e8e8e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.label.set(size=9, color=QUIET)
    axes.yaxis.label.set(size=9, color=QUIET)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})  # the same numbers give the same bytes
    return buffer.getvalue()
