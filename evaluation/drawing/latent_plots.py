"""Plots of latents: spans per answer, interventions and controls, retrieval ranks, and the map of spans."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from evaluation.benchmarks.futurebench_items import SPLIT_LABELS, SPLITS
from evaluation.drawing import style
from evaluation.drawing.score_plots import ROW, difference
from evaluation.drawing.sheet import BLUE, GREEN, INK, ORANGE, QUIET, VERMILION

MAP_COLOURS = {"1": BLUE, "2": ORANGE, "3": GREEN, ">3": VERMILION}
MAP_MARKERS = {"1": "o", "2": "^", "3": "s", ">3": "x"}
Reports = Mapping[str, Mapping[str, Any]]


def spans_by_hop(models: Reports, published: Mapping[str, Any] | None = None) -> bytes:
    """Donuts: the share of answers with 0, 1, 2, 3 and more latent spans by depth; the mean with its interval inside.

    models: FutureBench reports.  published: `latent_span_usage` of published.json, a last row marked as published.
    """
    names = [*models, *(["published"] if published else [])]
    across = min(2, max(1, len(names)))
    lines = -(-max(1, len(names)) // across)
    figure = Figure(figsize=(5.1 * across, 0.35 + 1.62 * lines), layout="constrained")
    blocks = np.array(figure.subfigures(lines, across, squeeze=False)).flat
    for name, block in zip(names, blocks, strict=False):
        ours = name in models
        block.suptitle(style.plain(name) if ours else "published, not ours", fontsize=9.5, color=INK if ours else QUIET,
                       style="normal" if ours else "italic")  # fmt: skip
        for axes, hop in zip(block.subplots(1, len(SPLITS)), SPLITS, strict=True):
            axes.set_axis_off()
            if ours or (published and hop in published["mean"]):
                axes.set_title(SPLIT_LABELS[hop], fontsize=7.5, color=QUIET, pad=2)
            if ours:
                usage = models[name]["spans"][hop]
                bounds = "" if usage["interval"] is None else "{:.2f}–{:.2f}".format(*usage["interval"])
                _donut(axes, usage["shares"], usage["mean"], f"{bounds}\nn = {usage['n']}")
            elif published and hop in published["mean"]:
                shares = dict(zip(published["bins"], (s / 100 for s in published["share_percent"][hop]), strict=True))
                _donut(axes, shares, published["mean"][hop], "no\ninterval")
    handles = [Line2D([], [], marker="s", linestyle="", markersize=7, color=c) for c in style.SPAN_COLOURS.values()]
    style.legend(figure, handles, [f"{name} span{'s' * (name != '1')}" for name in style.SPAN_COLOURS])
    return style.png(figure)


def interventions(models: Reports) -> bytes:
    """Change of accuracy under interventions on latents; models are reports of `latents.necessity`."""
    return _changes(models, "interventions")


def doses(models: Reports) -> bytes:
    """Accuracy by how many latents of a span are kept (left) and by the noise that is added to them (right), a line a
    model with its intervals; models are reports of `latents.diagnostics`."""
    tested = {name: report["dose"] for name, report in models.items() if report.get("dose")}
    styles = style.model_styles(tested)
    figure, panels = style.canvas(9.4, 3.1, 2, sharey=True)
    labels = {"kept": "latents kept of each span, the rest noise", "added_noise": "noise added, in norms of the latent"}
    for axes, (curve, label) in zip(panels, labels.items(), strict=True):
        axes.set_xlabel(label)
        style.percent_axis(axes)
        listed = [[point["dose"] for point in report[curve]["points"]] for report in tested.values() if curve in report]
        ticks = sorted({dose for of_model in listed for dose in of_model if dose is not None})
        last = (max(ticks, default=0) + 1) if curve == "kept" else None  # the place of all latents
        for name, report in tested.items():
            if points := report.get(curve, {}).get("points"):
                x = np.array([last if point["dose"] is None else point["dose"] for point in points])
                y = np.array([point["accuracy"] for point in points])
                bounds = np.array([point["interval"] for point in points]).T
                kind = styles[name]
                axes.errorbar(x, y, np.abs(bounds - y), color=kind.colour, marker=kind.marker, markersize=5, capsize=2,
                              linewidth=1.4)  # fmt: skip
        names = [f"{tick:g}" for tick in ticks]
        axes.set_xticks([*ticks, last] if last else ticks, [*names, "all"] if last else names)
    handles = [Line2D([], [], color=styles[name].colour, marker=styles[name].marker) for name in tested]
    panels[0].set_ylabel("right answers, 95 % interval")
    style.legend(figure, handles, [style.plain(name) for name in tested])
    return style.png(figure)


def controls(models: Reports) -> bytes:
    """Change of accuracy under controls of the input; reports as above."""
    return _changes(models, "controls")


def _changes(models: Reports, part: str) -> bytes:
    """A panel a model: paired differences on the same items with their intervals, and right of each the share of
    answers that changed, with its interval."""
    tested = {name: report for name, report in models.items() if report.get(part)}
    names = list(dict.fromkeys(name for report in tested.values() for name in report[part]))
    across = min(2, max(1, len(tested)))
    lines = -(-max(1, len(tested)) // across)
    figure, panels = style.canvas(1.6 + 4.1 * across, lines * (1.1 + ROW * max(2, len(names))), across, lines,
                            sharey=True, sharex=True)  # fmt: skip
    style.named_rows(panels, [name.replace("_", " ") for name in names])
    for axes in panels[len(tested) :]:
        axes.set_visible(False)
    for axes, (model, report) in zip(panels, tested.items(), strict=False):
        original = report["original"]
        style.title(axes, style.plain(f"{model}, original: {100 * original['accuracy']:.1f} % (n = {original['n']})"))
        for y, row in enumerate(report[part].get(name) for name in names):
            if row is not None:
                low, high = row["difference"]["interval"]
                difference(axes, y, row["difference"], low <= 0 <= high, VERMILION if high < 0 else BLUE)
                changed, bounds = row["answers_changed"]["accuracy"], row["answers_changed"]["interval"]
                label = f"{100 * changed:.0f} % changed ({100 * bounds[0]:.0f}–{100 * bounds[1]:.0f})"
                axes.text(1.0, y, label, transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=7,
                          color=QUIET)  # fmt: skip
        axes.axvline(0, color=INK, linewidth=0.9)
    for axes in panels[-across:]:
        axes.set_xlabel("points of accuracy, 95 % interval")
    low, high = panels[0].get_xlim()
    panels[0].set_xlim(low, high + 0.55 * (high - low))
    return style.png(figure)


def latent_retrieval(models: Reports) -> bytes:
    """Rank of the true future frame by the latents, against the last observed frame in their place and chance.

    models: reports of `latents.retrieval_report`; left top-1, middle mean reciprocal rank, right top-1 by span number.
    """
    figure, panels = style.canvas(10.2, 0.95 + 0.5 * max(2, len(models)), 3)
    first, rank, by_span = panels
    style.named_rows(panels, list(models))
    for axes in (rank, by_span):
        axes.set_yticklabels([])
    for axes, name, label in ((first, "top1", "true frame ranked first"), (rank, "mrr", "mean reciprocal rank")):
        style.title(axes, label)
        for y, report in enumerate(models.values()):
            true, observed = report["true_frame"][name], report["observed_frame"][name]
            style.dot(axes, style.value_of(true), y - 0.14, true["interval"], BLUE)
            style.dot(axes, style.value_of(observed), y + 0.14, observed["interval"], ORANGE, face="white", marker="D")
            chance = report["chance"][name]
            axes.plot([chance, chance], [y - 0.36, y + 0.36], color=QUIET, linewidth=1.4)
    _by_span(by_span, models)
    for axes in panels:
        axes.set_xlim(0, 1.05)
    for axes in (first, by_span):
        style.percent_axis(axes, "x")
    handles = [
        Line2D([], [], marker="o", linestyle="", color=BLUE),
        Line2D([], [], marker="D", linestyle="", color=ORANGE, markerfacecolor="white"),
        Line2D([], [], color=QUIET),
    ]
    style.legend(figure, handles, ["the latents", "the last observed frame in their place", "chance"])
    return style.png(figure)


def latent_map(projection: Mapping[str, Any]) -> bytes:
    """Latent spans on their two main axes, a panel a model, coloured by span number; `latents.geometry.latent_map`."""
    models = projection["models"]
    figure, panels = style.canvas(max(4.4, 3.5 * len(models)), 3.6, max(1, len(models)), sharex=True, sharey=True)
    for axes, (name, model) in zip(panels, models.items(), strict=False):
        style.style_axes(axes, grid="both")
        x, y = np.asarray(model["x"]), np.asarray(model["y"])
        numbers = np.asarray([str(number) if number <= 3 else ">3" for number in model["span"]])
        for label, colour in MAP_COLOURS.items():
            at = numbers == label
            axes.scatter(x[at], y[at], s=13, color=colour, alpha=0.6, linewidths=0.8 if label == ">3" else 0,
                         marker=MAP_MARKERS[label])  # fmt: skip
        of = "" if model["n"] == len(x) else f" of {model['n']:,}"
        style.title(axes, style.plain(f"{name}: {len(x):,}{of} spans"))
        axes.set_xlabel(f"first axis ({100 * projection['explained'][0]:.0f} % of variance)")
    panels[0].set_ylabel(f"second axis ({100 * projection['explained'][1]:.0f} %)")
    handles = [Line2D([], [], marker=MAP_MARKERS[n], linestyle="", color=c) for n, c in MAP_COLOURS.items()]
    style.legend(figure, handles, list(MAP_COLOURS), heading="span")
    return style.png(figure)


def _donut(axes: Axes, shares: Mapping[str, float | None], mean: float | None, caption: str) -> None:
    parts = {name: share for name, share in shares.items() if share}
    if mean is None or not parts:
        axes.text(0.5, 0.5, "no answers", transform=axes.transAxes, ha="center", fontsize=8, color=QUIET)
        return
    colours = [style.SPAN_COLOURS[name] for name in parts]
    axes.pie(list(parts.values()), colors=colours, startangle=90, counterclock=False, radius=1.22,
             wedgeprops={"width": 0.33, "edgecolor": "white", "linewidth": 1})  # fmt: skip
    axes.text(0, 0.2, f"{mean:.2f}", ha="center", va="center", fontsize=9, color=INK, weight="bold")
    axes.text(0, -0.27, caption, ha="center", va="center", fontsize=5.5, color=QUIET)


def _by_span(axes: Axes, models: Reports) -> None:
    """Top-1 of the latents by span number, which stands left of its interval."""
    style.title(axes, "true frame ranked first, by span number")
    for y, report in enumerate(models.values()):
        numbers = sorted(report["by_span"], key=int)
        for place, span in enumerate(numbers):
            at, score = y + 0.7 * ((place + 0.5) / len(numbers) - 0.5), report["by_span"][span]["top1"]
            style.dot(axes, style.value_of(score), at, score["interval"], BLUE)
            axes.annotate(span, (score["interval"][0], at), xytext=(-5, 0), textcoords="offset points", ha="right",
                          va="center", fontsize=7, color=QUIET)  # fmt: skip
