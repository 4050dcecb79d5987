"""Plots of runs: curation's counts, the curves of one training, and the rewards of RL runs side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from evaluation.drawing import style
from evaluation.drawing.sheet import BLUE, GREEN, INK, ORANGE, QUIET, WASH

KEPT, SAMPLE = BLUE, "#c8c8c8"
CURVES: dict[str, dict[str, tuple[str, str]]] = {
    "cross-entropy per token": {"ce": ("", BLUE)},
    "latent MSE": {
        "latent_mse": ("the model", BLUE),
        "latent_mse/copy_last_frame": ("copy of the last frame", ORANGE),
        "latent_mse/training_mean": ("training mean", "#9a9a9a"),
    },
    "latent skill": {"latent_skill": ("", BLUE)},
    "rewards": {
        "accuracy/all_samples": ("accuracy of all samples", BLUE),
        "rewards/accuracy/mean": ("of the groups kept", "#56b4e9"),
        "rewards/format/mean": ("format", ORANGE),
    },
    "rewards of latents": {"rewards/r_ctr/mean": ("$R_{ctr}$", GREEN), "rewards/r_div/mean": ("$R_{div}$", "#cc79a7")},
    "spans per answer": {"spans": ("", BLUE)},
}
"""The panels of a training: title, and its metrics with their labels and colours."""
REWARDS = (
    {"accuracy/all_samples": "accuracy of all samples", "rewards/accuracy/mean": "accuracy in the groups kept"},
    {"rewards/format/mean": "format"},
    {"rewards/r_ctr/mean": "$R_{ctr}$"},
    {"rewards/r_div/mean": "$R_{div}$"},
    {"spans": "spans per answer"},
)
"""The panels of RL runs: of several metrics the one that most runs report, else the first."""
WINDOW = 9
"""Logged steps in a running mean."""


def gain_histogram(fully_sampled: Mapping[str, int], kept: Mapping[str, int]) -> bytes:
    """Kept rows by visual gain; beside them the fully sampled ones, which stand for all.  Keys are gains as text."""
    values = [int(gain) for gain in (*fully_sampled, *kept)]
    gains = [str(gain) for gain in range(min(values, default=-8), max(values, default=8) + 1)]
    parts = {f"kept rows (n = {sum(kept.values()):,})": (kept, KEPT),
             f"fully sampled rows (n = {sum(fully_sampled.values()):,})": (fully_sampled, SAMPLE)}  # fmt: skip
    counts = {title: ({gain: part.get(gain, 0) for gain in gains}, colour) for title, (part, colour) in parts.items()}
    return _counts(counts, "visual gain: correct answers with the hint minus without")


def composition(categories: Mapping[str, int], future_frames: Mapping[str, int]) -> bytes:
    """Published rows by category and by number of future frames."""
    return _counts({"category": (categories, KEPT), "future frames per row": (future_frames, KEPT)})


def training_curves(metrics: Sequence[Mapping[str, float]]) -> bytes:
    """A training's metrics by step (training.runtime.programs.read_metrics), a panel for each of CURVES that it logged.

    SFT's latents stand beside two trivial predictors, a copy of the last observed frame and the mean of the training
    frames: at a skill of 0 or less the latents are no better, whatever the loss did.
    """
    panels = {title: series for title, lines in CURVES.items() if (series := _reported(metrics, lines))}
    figure = Figure(figsize=(max(3.4, 2.3 * len(panels)), 2.7), layout="constrained")
    if not panels:
        figure.text(0.5, 0.5, "no metrics were logged", ha="center", fontsize=9, color=QUIET)
        return style.png(figure)
    for axes, (panel, lines) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
        style.style_axes(axes)
        for label, colour, steps, values in lines:
            marker = "o" if len(steps) == 1 else None
            axes.plot(steps, values, color=colour, linewidth=1.4, marker=marker, markersize=3, label=label)
        if panel == "latent skill":
            _shade_no_skill(axes)
        elif panel == "latent MSE":
            axes.set_ylim(0)
        elif panel == "cross-entropy per token":
            # It starts near log(vocabulary size): on a linear axis later steps would be a flat line.
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_locator(NullLocator())
        style.title(axes, panel)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        if any(label for label, *_ in lines):
            axes.legend(frameon=False, fontsize=7)
    return style.png(figure)


def reward_curves(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> bytes:
    """RL runs side by side, a panel a reward: running means over WINDOW logged steps with 95 % intervals, over the raw
    values.

    The interval is of the mean of neighbouring steps, mean ± 1.96 s / sqrt(k): it shows the noise between steps.
    """
    panels = {}
    for candidates in REWARDS:
        reported = {
            name: {run: line for run, metrics in runs.items() if (line := _reported(metrics, {name: ("", "")}))}
            for name in candidates
        }
        name = max(candidates, key=lambda each: len(reported[each]))
        if reported[name]:
            panels[candidates[name]] = reported[name]
    figure, axes = style.canvas(max(4.0, 2.05 * len(panels)), 3.0, max(1, len(panels)))
    styles = style.model_styles(runs)
    for each, (label, lines) in zip(axes, panels.items(), strict=False):
        style.title(each, label)
        each.set_xlabel("step")
        each.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        for run, [(_, _, steps, values)] in lines.items():
            colour = styles[run].colour
            mean, half = _running(np.asarray(values))
            each.plot(steps, values, color=colour, linewidth=0.6, alpha=0.3)
            each.fill_between(steps, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0)
            each.plot(steps, mean, color=colour, linewidth=1.6, marker=styles[run].marker, markersize=4,
                      markevery=max(1, len(steps) // 5), label=style.plain(run))  # fmt: skip
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        style.legend(figure, handles, labels)
    return style.png(figure)


def _running(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The centred running mean and half of its interval; windows are cut at the ends, one value has no interval."""
    means, halves = [], []
    for at in range(len(values)):
        window = values[max(0, at - WINDOW // 2) : at + WINDOW // 2 + 1]
        means.append(window.mean())
        halves.append(1.96 * window.std(ddof=1) / np.sqrt(len(window)) if len(window) > 1 else 0.0)
    return np.asarray(means), np.asarray(halves)


def _reported(
    metrics: Sequence[Mapping[str, float]], lines: Mapping[str, tuple[str, str]]
) -> list[tuple[str, str, list[float], list[float]]]:
    """Label, colour, steps and values of each metric that was logged; values that are not finite are left out."""
    series = []
    for name, (label, colour) in lines.items():
        points = [(line["step"], line[name]) for line in metrics if np.isfinite(line.get(name, np.nan))]
        if points:
            steps, values = (list(column) for column in zip(*points, strict=True))
            series.append((label, colour, steps, values))
    return series


def _shade_no_skill(axes: Axes) -> None:
    """Shades skills that are no better than a trivial predictor's; the axis is cut at -2."""
    low, high = axes.get_ylim()
    low, high = max(-2.0, min(low, -0.25)), max(high, 1.0)
    axes.set_ylim(low, high)
    axes.axhspan(low, 0, color=WASH, zorder=-1)
    axes.axhline(0, color=QUIET, linewidth=0.8, linestyle=style.DASHED, zorder=1)
    note = "no better than a\ncopy of the last frame\nor the mean"
    where: dict[str, Any] = {"xytext": (0, -3), "xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
    axes.annotate(note, (0.97, 0), ha="right", va="top", fontsize=7, color=QUIET, **where)


def _counts(panels: Mapping[str, tuple[Mapping[str, int], str]], label: str = "") -> bytes:
    """A panel a title, with a bar of a colour for each name, its count, and its share where there is room.

    A dialog of the UI shows the figure's 6.9 inches whole.
    """
    figure, every = style.canvas(6.9, 3.4, len(panels))
    every[0].set_ylabel("rows")
    for axes, (title, (counts, colour)) in zip(every, panels.items(), strict=True):
        total, top = max(1, sum(counts.values())), max([1, *counts.values()])
        axes.bar(range(len(counts)), list(counts.values()), color=colour, width=0.82)
        for x, count in enumerate(counts.values()):
            share = f"\n{100 * count / total:.1f} %" if len(counts) < 10 else ""
            if count:
                axes.text(x, count + 0.015 * top, f"{count:,}{share}", ha="center", va="bottom", fontsize=7,
                          color=QUIET)  # fmt: skip
        axes.set_xticks(range(len(counts)), [style.plain(name) for name in counts])
        axes.set_ylim(0, 1.18 * top)
        axes.set_title(title, fontsize=8, color=INK)
        axes.set_xlabel(label)
    return style.png(figure)
