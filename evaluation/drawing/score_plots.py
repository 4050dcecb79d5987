"""Plots of scores: accuracy by depth, marks, paired differences, cost against accuracy, and data scaling."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from evaluation.benchmarks.futurebench import SPLIT_LABELS
from evaluation.benchmarks.twiffbench import MARK_LABELS
from evaluation.drawing.sheet import INK, QUIET, WASH
from evaluation.drawing.style import (
    DASHED,
    ModelStyle,
    canvas,
    model_styles,
    named_rows,
    percent_axis,
    plain,
    png,
    style,
    title,
    value_of,
    whiskers,
)

Scores = Mapping[str, Mapping[str, Any]]
SPLIT_PANELS = {**SPLIT_LABELS, "average": "average"}
ROW = 0.27
"""Inches for one model."""


def accuracy_by_hop(models: Scores, chance: float | None = 0.25, labels: Mapping[str, str] = SPLIT_PANELS) -> bytes:
    """Bars by split and on average for each model, with Wilson intervals.

    models: multiple-choice reports; labels: the panels' titles by split, FutureBench's if not given.
    """
    figure, panels = canvas(10.2, 0.95 + ROW * max(2, len(models)), len(labels), sharey=True)
    named_rows(panels, list(models))
    for axes, (split, label) in zip(panels, labels.items(), strict=True):
        scores = {
            m: report["average"] if split == "average" else report["splits"][split] for m, report in models.items()
        }
        _bars(axes, scores, "{:.1f}", scale=100)
        sizes = sorted({score["n"] for score in scores.values()})
        title(axes, f"{label}\nn = {' / '.join(f'{n:,}' for n in sizes)}")
        axes.set_xlim(0, 1.22)
        axes.set_xticks([0, 0.5, 1])
        percent_axis(axes, "x")
        if chance is not None:
            axes.axvline(chance, color=QUIET, linewidth=0.8, linestyle=DASHED)
    panels[-1].set_facecolor(WASH)
    if chance is not None:
        panels[0].set_xlabel(f"dashed: chance, {100 * chance:.0f} %")
    return png(figure)


def judged_marks(models: Scores) -> bytes:
    """TwiFF-Bench's three marks from 0 to 5 with bootstrap intervals; a partial score is labelled as such."""
    names = [name if r["status"] == "complete" else f"{name} ({r['status']})" for name, r in models.items()]
    figure, panels = canvas(8.6, 0.95 + ROW * max(2, len(models)), len(MARK_LABELS), sharey=True)
    named_rows(panels, names)
    for axes, (mark, label) in zip(panels, MARK_LABELS.items(), strict=True):
        scores = {name: report[mark] for name, report in models.items()}
        _bars(axes, scores, "{:.2f}")
        sizes = sorted({score["n"] for score in scores.values()})
        title(axes, f"{label}\nn = {' / '.join(f'{n:,}' for n in sizes)}")
        axes.set_xlim(0, 6)
        axes.set_xticks(range(6))
    return png(figure)


def paired_differences(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Accuracy after minus accuracy before on the same items, with intervals; rows as `run_reports.paired_rows`."""
    figure, (axes,) = canvas(7.6, 0.75 + ROW * max(2, len(rows)))
    named_rows([axes], [f"{row['before']} → {row['after']}" for row in rows])
    for y, row in enumerate(rows):
        difference(axes, y, row, row["interval"][0] <= 0 <= row["interval"][1])
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.set_xlabel("points of accuracy on the same items, 95 % interval; hollow: the interval holds 0")
    return png(figure)


def difference(axes: Axes, y: float, row: Mapping[str, Any], hollow: bool, colour: str = "#0072b2") -> None:
    """One paired difference in points with its interval."""
    value, (low, high) = 100 * row["difference"], (100 * bound for bound in row["interval"])
    axes.errorbar(value, y, xerr=whiskers(value, (low, high)), fmt="o", markersize=5, color=colour, elinewidth=1.4,
                  capsize=2.5, markerfacecolor="white" if hollow else colour)  # fmt: skip


def cost_against_accuracy(models: Scores) -> bytes:
    """Accuracy with its interval over the seconds of one answer, and over its generated tokens."""
    panels_of = {
        "seconds per answer (its share of a batch)": lambda c: c["prefill_seconds"] + c["decode_seconds"],
        "generated tokens per answer": lambda c: c["text_tokens"] + c["latent_tokens"] + c["control_tokens"],
    }
    timed = {m: r for m, r in models.items() if r["cost"]["n"]}
    figure, panels = canvas(9.4, 3.7, len(panels_of), sharey=True)
    for axes, (label, cost) in zip(panels, panels_of.items(), strict=True):
        points = [(cost(report["cost"]), report["average"], name) for name, report in timed.items()]
        _scattered(axes, points, model_styles(models))
        axes.set_xlabel(label)
        percent_axis(axes)
        axes.set_xlim(left=0, right=1.12 * max([x for x, *_ in points], default=1))
    panels[0].set_ylabel("FutureBench accuracy, 95 % interval")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, title="model (n)", title_fontsize=8, frameon=False, fontsize=8, loc="outside right center"
    )
    return png(figure)


def data_scaling(panels_of: Mapping[str, Mapping[str, Mapping[int, Mapping[str, Any]]]]) -> bytes:
    """Scores over the rows of training data: panel, line, then score by rows; a line "published" has no interval."""
    figure, panels = canvas(max(4.2, 3.1 * len(panels_of)), 3.1, max(1, len(panels_of)))
    for axes, (label, lines) in zip(panels, panels_of.items(), strict=False):
        style(axes)
        title(axes, label)
        ours = model_styles(name for name in lines if name != "published")
        for name, scores in lines.items():
            _line(axes, plain(name), scores, ours.get(name))
        ticks = sorted({rows for scores in lines.values() for rows in scores})
        axes.set_xscale("log")
        if all("accuracy" in score for scores in lines.values() for score in scores.values()):
            percent_axis(axes)
        axes.set_xticks(ticks, [f"{rows // 1000}k" if rows >= 1000 else str(rows) for rows in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.margins(x=0.12, y=0.15)
        axes.set_xlabel("rows of training data")
        axes.legend(frameon=False, fontsize=7.5)
    return png(figure)


def _line(axes: Axes, name: str, scores: Mapping[int, Mapping[str, Any]], model_style: ModelStyle | None) -> None:
    values = [(rows, value_of(score), score) for rows, score in sorted(scores.items())]
    points = [(rows, value, score) for rows, value, score in values if value is not None]
    colour = model_style.colour if model_style else QUIET
    axes.plot([p[0] for p in points], [p[1] for p in points], color=colour, linewidth=1.4, label=name,
              marker=model_style.marker if model_style else "s", markersize=5, linestyle="-" if model_style else DASHED,
              markerfacecolor=colour if model_style else "white")  # fmt: skip
    for rows, value, score in points:
        if score["interval"] is not None:
            axes.errorbar(rows, value, whiskers(value, score["interval"]), fmt="none", ecolor=colour, capsize=2.5)


def _bars(axes: Axes, scores: Mapping[str, Mapping[str, Any]], form: str, scale: float = 1) -> None:
    """A bar a model with its interval and its value; without a value there is a dash, and no bar."""
    styles = model_styles(scores)
    for y, (name, score) in enumerate(scores.items()):
        value = value_of(score)
        if value is None:
            axes.text(0.02, y, "–", va="center", fontsize=8, color=QUIET, transform=axes.get_yaxis_transform())
            continue
        axes.barh(y, value, height=0.68, color=styles[name].colour)
        axes.errorbar(value, y, xerr=whiskers(value, score["interval"]), fmt="none", ecolor=INK, elinewidth=1,
                      capsize=2)  # fmt: skip
        axes.annotate(form.format(scale * value), (score["interval"][1], y), xytext=(4, 0), va="center", fontsize=7.5,
                      textcoords="offset points", color=INK)  # fmt: skip


def _scattered(
    axes: Axes, points: Sequence[tuple[float, Mapping[str, Any], str]], styles: Mapping[str, ModelStyle]
) -> None:
    for x, score, name in points:
        value = value_of(score)
        if value is not None:
            axes.errorbar(x, value, whiskers(value, score["interval"]), fmt=styles[name].marker, markersize=6.5,
                          color=styles[name].colour, ecolor=QUIET, elinewidth=1, capsize=2.5,
                          label=plain(f"{name} ({score['n']:,})"))  # fmt: skip
