"""The page's runs: cost against accuracy, data scaling, curation, rewards, storyboards, seconds and versions."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.benchmarks.twiffbench import MARK_LABELS, MARKS
from evaluation.reports.edges import asset_of
from evaluation.reports.latents import PICTURES
from evaluation.reports.lineage import EXAMPLES
from evaluation.reports.parts import DASH, Cell, Row, Section, Table, mean, percent, picture, plot, row
from evaluation.reports.run_reports import RunReports
from evaluation.reports.scores import PUBLISHED, cost_rows

REWARD = "rewards/accuracy/mean"
"""The metric that only RL runs log."""
PLAIN_ROWS = 10_000
"""Training rows of a recipe whose name has no number, beside recipes with one (`la_dapo`, `la_dapo_5k`)."""
MAX_PARTITIONS = 20
"""Artifacts of an asset whose versions are on the page: a model's are, those of thousands of shards are not."""
SPENT = (
    "model", "accuracy", "tokens", "text", "latent", "control", "prompt", "prefill s", "decode s", "% per s",
    "truncated",
)  # fmt: skip
COST_NOTE = (
    "Means over answered items. Control tokens open and close spans and end answers; those of the prompt are prefilled."
    " Seconds are an answer's share of its batch's on one device: throughput, not latency. % per s is accuracy in per"
    " cent over them. Truncated: cut at the limit of new tokens. The figure's intervals are of accuracy alone."
)
_SCALED = re.compile(r"(.+?)_(\d+)k")


def cost(reports: RunReports, figures: bool) -> Section:
    """The cost of an answer, and the accuracy for it."""
    answered = {name: report for name, report in reports.futurebench.items() if report["cost"]["n"]}
    rows = [_spent(name, report) for name, report in answered.items()]
    rows.append(row("Published, not ours: other hardware; the paper does not define its latency", published=True))
    rows += cost_rows(list(answered))
    tables = [Table(SPENT, rows)]
    if timed := [_waited(name, one) for name, r in answered.items() if (one := r["cost"].get("latency"))]:
        names = ["model", "prefill s", "decode s", "both", "% per s"]
        tables.append(Table(names, timed, "Answers decoded one at a time, on a warm device"))
    plots = plot(figures, "scores", "cost_against_accuracy", "Accuracy over cost", answered)
    return Section("Cost against accuracy", tables=tables, figures=plots, note=COST_NOTE)


def scaling(reports: RunReports, figures: bool) -> Section | None:
    """Scores over rows of training data, where a recipe was trained on several; None where none was."""
    families = scaled(reports.futurebench)
    if not families:
        return None
    accuracy = {f: {n: reports.futurebench[m]["average"] for n, m in sizes.items()} for f, sizes in families.items()}
    panels: dict[str, Any] = {"FutureBench accuracy": accuracy}
    for mark, label in MARK_LABELS.items():
        lines = {
            family: {n: reports.twiffbench[m][mark] for n, m in sizes.items() if m in reports.twiffbench}
            for family, sizes in families.items()
        }
        published = {n: {"mean": PUBLISHED["twiffbench"]["rows"][f"Future-L1-RL {n // 1000}K"][MARKS.index(mark)],
                     "interval": None} for n in (5_000, 10_000, 20_000)}  # fmt: skip
        if any(lines.values()):
            panels[f"TwiFF-Bench {label}"] = lines | {"published": published}
    rows = [
        row(family, f"{n:,}", percent(accuracy[family][n]), *_marks_of(reports, model))
        for family, sizes in families.items()
        for n, model in sizes.items()
    ]
    head = ["recipe", "rows of data", "FutureBench", *(f"TwiFF-Bench {label}" for label in MARK_LABELS.values())]
    note = "“Published” is of TwiFF-Bench itself, its own judge and Qwen3-VL-8B, without intervals: not ours."
    plots = plot(figures, "scores", "data_scaling", "Scores over rows of training data", panels)
    return Section("Data scaling", tables=[Table(head, rows)], figures=plots, note=note)


def scaled(models: Sequence[str] | Mapping[str, Any]) -> dict[str, dict[int, str]]:
    """Recipes that were trained on several amounts of data: family, then model by rows, ascending.

    `{name}_5k` is trained on 5,000 rows; `{name}` beside such recipes on PLAIN_ROWS.
    """
    families: dict[str, dict[int, str]] = {}
    for model in models:
        if match := _SCALED.fullmatch(model):
            families.setdefault(match[1], {})[1000 * int(match[2])] = model
    for family, sizes in families.items():
        if family in models:
            sizes.setdefault(PLAIN_ROWS, family)
    return {family: dict(sorted(sizes.items())) for family, sizes in families.items() if len(sizes) > 1}


def curation(reports: RunReports, figures: bool) -> Section:
    """The outcome of every scored row, and the gains."""
    report = reports.curation
    scored, kept, pending = report["scored"], report["kept"], report["pending"]
    reasons = {"scored": scored, "kept": kept, **report["rejected_by_reason"], "pending": pending}
    rows = [row(name.replace("_", " "), f"{count:,}") for name, count in reasons.items()]
    histograms = (report["gain_histogram"], report["gain_histogram_kept"])
    plots = plot(figures, "runs", "gain_histogram", "Rows by visual gain", *histograms)
    return Section("Curation by visual gain", tables=[Table(["rows", "count"], rows)], figures=plots)


def rewards(reports: RunReports, figures: bool) -> Section | None:
    """Rewards of RL runs by step; None where no run reported any."""
    runs = {name: lines for name, lines in reports.curves.items() if any(REWARD in line for line in lines)}
    if not runs:
        return None
    rows = []
    for name, lines in runs.items():
        reported = [line for line in lines if REWARD in line]
        ends = [f"{line[REWARD]:.2f}" for line in (reported[0], reported[-1])]
        rows.append(row(name, f"{len(reported)}", f"{lines[-1]['step']}", *ends))
    head = ["RL run", "logged steps", "last step", "accuracy reward, first", "last"]
    note = (
        "Running means over nine neighbouring steps with the 95 % interval of that mean (the noise between steps, not"
        " between runs), over the raw values. The accuracy reward of the groups kept is of a selected sample:"
        " dynamic sampling leaves out groups that are all correct or all incorrect."
    )
    plots = plot(figures, "runs", "reward_curves", "Rewards by step", runs)
    return Section("Rewards", tables=[Table(head, rows)], figures=plots, note=note)


def storyboards(reports: RunReports, figures: bool) -> Section | None:
    """Storyboards of answers; None on a page without figures."""
    chosen = {name: path for name, path in reports.pictures.items() if name.split("/")[0] not in (PICTURES, EXAMPLES)}
    if not chosen or not figures:
        return None
    return Section("Storyboards", figures=[picture(name, path) for name, path in chosen.items()])


def seconds(reports: RunReports, figures: bool) -> Section | None:
    """Seconds of work; None where they were not measured."""
    if not reports.seconds:
        return None
    rows = [row(stage, f"{spent:,.1f}") for stage, spent in reports.seconds.items()]
    return Section("Seconds per stage", tables=[Table(["stage", "seconds"], rows, "Seconds of work", folded=True)])


def provenance(reports: RunReports, figures: bool) -> Section | None:
    """The versions of all artifacts, of an asset with many partitions their number; None where there are none."""
    if not reports.provenance:
        return None
    versions: dict[str, dict[str, str]] = {}
    for name, version in reports.provenance.items():
        versions.setdefault(asset_of(name), {})[name] = version
    rows = []
    for asset, of_asset in versions.items():
        if len(of_asset) > MAX_PARTITIONS:
            rows.append(row(asset, f"{len(of_asset):,} partitions, in report.json"))
        else:
            rows += [row(name, version) for name, version in of_asset.items()]
    caption = f"{len(reports.provenance):,} artifacts"
    return Section("Provenance", tables=[Table(["artifact", "version"], rows, caption, folded=True)])


def _spent(name: str, report: Mapping[str, Any]) -> Row:
    """Means over a model's answers: tokens by kind, of the prompt, and seconds."""
    spent, accuracy = report["cost"], report["average"]["accuracy"]
    kinds = [spent[f"{kind}_tokens"] for kind in ("text", "latent", "control")]
    times = [spent["prefill_seconds"], spent["decode_seconds"]]
    prompt, seconds = spent.get("prompt_tokens"), sum(times)
    cells = [*(f"{tokens:.1f}" for tokens in (sum(kinds), *kinds)), DASH if prompt is None else f"{prompt:,.1f}"]
    cells += [*(f"{time:.4f}" for time in times), f"{100 * accuracy / seconds:,.0f}" if seconds else DASH]
    return row(Cell(name, f"n = {spent['n']:,}"), percent(report["average"]), *cells, f"{spent['cut_short']}")


def _waited(name: str, latency: Mapping[str, Any]) -> Row:
    rate = latency["accuracy_per_second"]
    seconds = [mean(latency[part], 4) for part in ("prefill_seconds", "decode_seconds", "seconds")]
    return row(name, *seconds, DASH if rate is None else f"{rate:,.0f}")


def _marks_of(reports: RunReports, model: str) -> list[Cell]:
    report = reports.twiffbench.get(model)
    return [mean(report[mark]) if report else Cell(DASH) for mark in MARKS]
