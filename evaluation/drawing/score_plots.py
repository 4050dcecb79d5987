"""Plots of scores: accuracy by depth, marks, paired differences, cost against accuracy, and data scaling."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from evaluation.benchmarks.futurebench_items import SPLIT_LABELS
from evaluation.benchmarks.twiffbench import MARK_LABELS
from evaluation.drawing import style
from evaluation.drawing.sheet import BLUE, INK, QUIET, WASH

Scores = Mapping[str, Mapping[str, Any]]
SPLIT_PANELS = {**SPLIT_LABELS, "average": "average"}
ROW = 0.27
"""Inches for one model."""


def accuracy_by_hop(models: Scores, chance: float | None = 0.25, labels: Mapping[str, str] = SPLIT_PANELS) -> bytes:
    """Bars by split and on average for each model, with Wilson intervals.

    models: multiple-choice reports; labels: the panels' titles by split, FutureBench's if not given.
    """
    scores = {
        label: [report["average"] if split == "average" else report["splits"][split] for report in models.values()]
        for split, label in labels.items()
    }
    figure, panels = _bar_panels(10.2, models, list(models), scores, "{:.1f}", scale=100)
    for axes in panels:
        axes.set_xlim(0, 1.22)
        axes.set_xticks([0, 0.5, 1])
        style.percent_axis(axes, "x")
        if chance is not None:
            axes.axvline(chance, color=QUIET, linewidth=0.8, linestyle=style.DASHED)
    panels[-1].set_facecolor(WASH)
    if chance is not None:
        panels[0].set_xlabel(f"dashed: chance, {100 * chance:.0f} %")
    return style.png(figure)


def judged_marks(models: Scores) -> bytes:
    """TwiFF-Bench's three marks from 0 to 5 with bootstrap intervals; a partial score is labelled as such."""
    names = [name if r["status"] == "complete" else f"{name} ({r['status']})" for name, r in models.items()]
    scores = {label: [report[mark] for report in models.values()] for mark, label in MARK_LABELS.items()}
    figure, panels = _bar_panels(8.6, models, names, scores, "{:.2f}")
    for axes in panels:
        axes.set_xlim(0, 6)
        axes.set_xticks(range(6))
    return style.png(figure)


def paired_differences(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Accuracy after minus accuracy before on the same items, with intervals; rows as `run_reports.paired_rows`."""
    figure, (axes,) = style.canvas(7.6, 0.75 + ROW * max(2, len(rows)))
    style.named_rows([axes], [f"{row['before']} → {row['after']}" for row in rows])
    for y, row in enumerate(rows):
        difference(axes, y, row, row["interval"][0] <= 0 <= row["interval"][1])
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.set_xlabel("points of accuracy on the same items, 95 % interval; hollow: the interval holds 0")
    return style.png(figure)


def difference(axes: Axes, y: float, row: Mapping[str, Any], hollow: bool, colour: str = BLUE) -> None:
    """One paired difference in points with its interval."""
    value, interval = 100 * row["difference"], [100 * bound for bound in row["interval"]]
    style.dot(axes, value, y, interval, colour, face="white" if hollow else colour, size=5)


def cost_against_accuracy(models: Scores) -> bytes:
    """Accuracy with its interval over the seconds of one answer, and over its generated tokens."""
    panels_of = {
        "seconds per answer (its share of a batch)": ("prefill_seconds", "decode_seconds"),
        "generated tokens per answer": ("text_tokens", "latent_tokens", "control_tokens"),
    }
    timed = {model: report for model, report in models.items() if report["cost"]["n"]}
    styles = style.model_styles(models)
    figure, panels = style.canvas(9.4, 3.7, len(panels_of), sharey=True)
    for axes, (label, parts) in zip(panels, panels_of.items(), strict=True):
        costs = {name: sum(report["cost"][part] for part in parts) for name, report in timed.items()}
        for name, cost in costs.items():
            score = timed[name]["average"]
            if (value := style.value_of(score)) is not None:
                axes.errorbar(cost, value, style.whiskers(value, score["interval"]), fmt=styles[name].marker,
                              markersize=6.5, color=styles[name].colour, ecolor=QUIET, elinewidth=1, capsize=2.5,
                              label=style.plain(f"{name} ({score['n']:,})"))  # fmt: skip
        axes.set_xlabel(label)
        style.percent_axis(axes)
        axes.set_xlim(left=0, right=1.12 * max(costs.values(), default=1))
    panels[0].set_ylabel("FutureBench accuracy, 95 % interval")
    style.legend(figure, *panels[0].get_legend_handles_labels(), heading="model (n)")
    return style.png(figure)


def data_scaling(panels_of: Mapping[str, Mapping[str, Mapping[int, Mapping[str, Any]]]]) -> bytes:
    """Scores over the rows of training data: panel, line, then score by rows; a line "published" has no interval."""
    figure, panels = style.canvas(max(4.2, 3.1 * len(panels_of)), 3.1, max(1, len(panels_of)))
    for axes, (label, lines) in zip(panels, panels_of.items(), strict=False):
        style.title(axes, label)
        ours = style.model_styles(name for name in lines if name != "published")
        for name, scores in lines.items():
            _line(axes, style.plain(name), scores, ours.get(name))
        ticks = sorted({rows for scores in lines.values() for rows in scores})
        axes.set_xscale("log")
        if all("accuracy" in score for scores in lines.values() for score in scores.values()):
            style.percent_axis(axes)
        axes.set_xticks(ticks, [f"{rows // 1000}k" if rows >= 1000 else str(rows) for rows in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.margins(x=0.12, y=0.15)
        axes.set_xlabel("rows of training data")
        axes.legend(frameon=False, fontsize=7.5)
    return style.png(figure)


def _line(axes: Axes, name: str, scores: Mapping[int, Mapping[str, Any]], model: style.ModelStyle | None) -> None:
    """A line through the scores that have a value; `model` is None for a published one."""
    points = [(rows, style.value_of(score), score["interval"]) for rows, score in sorted(scores.items())]
    present = [(rows, value, interval) for rows, value, interval in points if value is not None]
    colour, face, line = (model.colour, model.colour, "-") if model else (QUIET, "white", style.DASHED)
    marker = model.marker if model else "s"
    axes.plot([rows for rows, *_ in present], [value for _, value, _ in present], color=colour, linewidth=1.4,
              label=name, marker=marker, markersize=5, linestyle=line, markerfacecolor=face)  # fmt: skip
    for rows, value, interval in present:
        if interval is not None:
            axes.errorbar(rows, value, style.whiskers(value, interval), fmt="none", ecolor=colour, capsize=2.5)


def _bar_panels(
    width: float, models: Scores, names: Sequence[str], scores: Mapping[str, Sequence[Mapping[str, Any]]], form: str,
    scale: float = 1,
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """A panel a label, with a bar a model: its interval and value; without a value there is a dash, and no bar.

    names: as they are written; scores: by label, in the models' order; form, scale: of the values.
    """
    figure, panels = style.canvas(width, 0.95 + ROW * max(2, len(models)), len(scores), sharey=True)
    style.named_rows(panels, names)
    colours = [model.colour for model in style.model_styles(models).values()]
    for axes, (label, of_models) in zip(panels, scores.items(), strict=True):
        for y, (score, colour) in enumerate(zip(of_models, colours, strict=True)):
            value = style.value_of(score)
            if value is None:
                axes.text(0.02, y, "–", va="center", fontsize=8, color=QUIET, transform=axes.get_yaxis_transform())
                continue
            axes.barh(y, value, height=0.68, color=colour)
            axes.errorbar(value, y, xerr=style.whiskers(value, score["interval"]), fmt="none", ecolor=INK,
                          elinewidth=1, capsize=2)  # fmt: skip
            axes.annotate(form.format(scale * value), (score["interval"][1], y), xytext=(4, 0), va="center",
                          fontsize=7.5, textcoords="offset points", color=INK)  # fmt: skip
        sizes = sorted({score["n"] for score in of_models})
        style.title(axes, f"{label}\nn = {' / '.join(f'{n:,}' for n in sizes)}")
    return figure, panels
