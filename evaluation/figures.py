"""Figures as PNG bytes: one style, intervals drawn, colours that colour-blind readers can tell apart (Okabe, Ito)."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

MODEL_COLOURS = {"base": "#9a9a9a", "text_only": "#e69f00", "future_l1": "#0072b2", "la_dapo": "#009e73"}
OTHER_COLOURS = ("#cc79a7", "#d55e00", "#56b4e9", "#f0e442", "#000000")
SPAN_COLOURS = {"0": "#e4e4e4", "1": "#c6dbef", "2": "#6baed6", "3": "#2171b5", ">3": "#08306b"}
INK, QUIET, KEPT, REJECTED = "#222222", "#6b6b6b", "#0072b2", "#c8c8c8"
HOP_LABELS = {"hop1": "1 hop", "hop2": "2 hops", "hop3": "3 hops", "hop5": "interpolation", "average": "average"}
DPI = 160
# A training's panels: title, and the reported figures in it with their names and colours.
CURVES: dict[str, dict[str, tuple[str, str]]] = {
    "cross-entropy per token": {"ce": ("", "#0072b2")},
    "latent MSE": {
        "latent_mse": ("the model", "#0072b2"),
        "latent_mse_nothing_changes": ("“nothing changes”", "#e69f00"),
        "latent_mse_mean": ("training mean", "#9a9a9a"),
    },
    "latent skill": {"latent_skill": ("", "#0072b2")},
    "rewards": {
        "accuracy/drawn": ("accuracy of all drawn", "#0072b2"),
        "rewards/accuracy": ("of the groups kept", "#56b4e9"),
        "rewards/format": ("format", "#e69f00"),
    },
    "rewards of latents": {"rewards/r_ctr": ("$R_{ctr}$", "#009e73"), "rewards/r_div": ("$R_{div}$", "#cc79a7")},
    "spans per answer": {"spans": ("", "#0072b2")},
}


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


def training_curves(metrics: Sequence[Mapping[str, float]]) -> bytes:
    """What a training reported step by step (training.programs.read_metrics): a panel for each thing that it tells.

    SFT's latents stand beside what needs no training, the observed frame as the future one and the mean of the training
    frames: at a skill of 0 or less they are worth nothing, whatever the loss did.
    """
    panels = {title: drawn for title, lines in CURVES.items() if (drawn := _reported(metrics, lines))}
    figure = Figure(figsize=(max(3.4, 2.3 * len(panels)), 2.7), layout="constrained")
    if not panels:
        figure.text(0.5, 0.5, "the training reported nothing", ha="center", fontsize=9, color=QUIET)
        return _png(figure)
    for axes, (title, lines) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
        _style(axes)
        for label, colour, steps, values in lines:
            marker = "o" if len(steps) == 1 else None
            axes.plot(steps, values, color=colour, linewidth=1.4, marker=marker, markersize=3, label=label)
        if title == "latent skill":
            _worthless(axes)
        elif title == "latent MSE":
            axes.set_ylim(0)
        elif title == "cross-entropy per token":
            axes.set_yscale("log")  # it begins at the vocabulary's size, and what is learned later would be a flat line
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_locator(NullLocator())
        axes.set_title(title, fontsize=9, color=INK)
        axes.set_xlabel("step")
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        if any(label for label, *_ in lines):
            axes.legend(frameon=False, fontsize=7)
    return _png(figure)


def _reported(
    metrics: Sequence[Mapping[str, float]], lines: Mapping[str, tuple[str, str]]
) -> list[tuple[str, str, list[float], list[float]]]:
    """Label, colour, steps and values of each figure that was reported; what is not finite is left out."""
    drawn = []
    for name, (label, colour) in lines.items():
        points = [(line["step"], line[name]) for line in metrics if np.isfinite(line.get(name, np.nan))]
        if points:
            steps, values = (list(column) for column in zip(*points, strict=True))
            drawn.append((label, colour, steps, values))
    return drawn


def _worthless(axes: Axes) -> None:
    """Marks what is no better than a trivial prediction; how far below it a run began is cut off at -2."""
    low, high = axes.get_ylim()
    low, high = max(-2.0, min(low, -0.25)), max(high, 1.0)
    axes.set_ylim(low, high)
    axes.axhspan(low, 0, color="#f4f4f4", zorder=-1)
    axes.axhline(0, color=QUIET, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    said = "no better than\n“nothing changes”\nor the mean"
    where: dict[str, Any] = {"xytext": (0, -3), "xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
    axes.annotate(said, (0.97, 0), ha="right", va="top", fontsize=7, color=QUIET, **where)


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
