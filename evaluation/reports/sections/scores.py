"""The page's scores: our rows beside the published ones, paired tests between ours, and judged marks."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.benchmarks.futurebench import SPLIT_LABELS, SPLITS
from evaluation.benchmarks.twiffbench import MARK_LABELS, MARKS
from evaluation.reports.run_reports import RunReports, holm
from evaluation.reports.sections.parts import (
    DASH,
    Cell,
    Row,
    Section,
    Table,
    figure,
    heading,
    mean,
    p_value,
    percent,
    points,
)
from evaluation.statistics import Proportion

PUBLISHED: dict[str, Any] = json.loads((Path(__file__).parents[1] / "published.json").read_text(encoding="utf-8"))
COUNTERPARTS = {
    "base": "Qwen3-VL-8B zero-shot",
    "text_only": "text-only SFT",
    "random": "random-50K SFT",
    "future_l1": "Future-L1-SFT",
    "grpo": "Future-L1-SFT + GRPO",
    "dapo": "Future-L1-SFT + DAPO",
    "dapo_ctr": "DAPO + R_ctr",
    "dapo_div": "DAPO + R_div",
    "la_dapo": "Future-L1-RL (LA-DAPO)",
    "grpo_text_only": "text-only SFT + GRPO",
    "dapo_text_only": "text-only SFT + DAPO",
}
"""The published row of a recipe of ours."""
TWIFF_COUNTERPARTS = {"base": "Qwen3-VL-8B zero-shot", "future_l1": "Future-L1-SFT", "la_dapo": "Future-L1-RL 10K",
                      "la_dapo_5k": "Future-L1-RL 5K", "la_dapo_20k": "Future-L1-RL 20K"}  # fmt: skip
COST_COUNTERPARTS = {"base": "Qwen3-VL-8B", "future_l1": "Future-L1-SFT", "la_dapo": "Future-L1-RL"}


def comparison(reports: RunReports, figures: bool) -> Section:
    """FutureBench: our rows with their origin, then the published rows, marked as such."""
    head = ["model", *SPLIT_LABELS.values(), "average", "unparsed", "checkpoint"]
    rows = [_model_row(name, report, reports) for name, report in reports.futurebench.items()]
    beside, others = _published_futurebench([COUNTERPARTS.get(name, "") for name in reports.futurebench])
    ours = {report["average"]["n"] for report in reports.futurebench.values()}
    there = "FutureBench itself" if reports.on_published_data else "FutureBench itself, other data than our rows"
    banner = heading(f"Published (arXiv 2606.05769), not ours: Qwen3-VL-8B on {there}", published=True)
    parsers = sorted({report["parser"] for report in reports.futurebench.values()})
    missing = [f"{name} {r['missing']:,} of {r['items']:,}" for name, r in reports.futurebench.items() if r["missing"]]
    note = f"Accuracy with 95 % Wilson intervals, as generated; parser: {', '.join(parsers)}."
    note += " Intervals of published rows are ours, from the published score and n."
    note += f" Partial, items without an answer: {', '.join(missing)}; they are missing, not wrong." if missing else ""
    text = ""
    if not reports.on_published_data:
        sizes, theirs = " / ".join(f"{n:,}" for n in sorted(ours)), PUBLISHED["futurebench"]["n"][-1]
        text = (
            f"Our rows are of other data (n = {sizes}) than the published rows (n = {theirs:,}), and of other models:"
        )
        text += " compare our rows with each other, not with those."
    return Section(
        "FutureBench",
        text=text,
        tables=[
            Table(head, [*rows, banner, *beside]),
            Table(head, others, "Other published models, as arXiv 2606.05769 quotes them", folded=True),
            _parsers(reports.futurebench),
        ],
        figures=figure(figures, "scores", "accuracy_by_hop", "Accuracy by depth with intervals", reports.futurebench),
        note=note,
    )


def paired(reports: RunReports, figures: bool) -> Section | None:
    """Paired tests between our models on the same items; None where there is one model."""
    if not reports.paired:
        return None
    adjusted = holm([row["p_value"] for row in reports.paired])
    rows = []
    for row, together in zip(reports.paired, adjusted, strict=True):
        values = (str(row["only_a"]), str(row["only_b"]), p_value(row["p_value"]), p_value(together))
        rows.append(Row([Cell(f"{row['before']} → {row['after']}"), points(row), *map(Cell, values)]))
    head = ["models", "change (points)", "only the first correct", "only the second correct", "McNemar p", "p, Holm"]
    note = "The same items answered by both: exact McNemar tests, intervals of Bonett and Price; Holm's adjustment is"
    note += f" for these {len(rows)} tests together."
    plots = figure(figures, "scores", "paired_differences", "Paired differences with intervals", reports.paired)
    return Section("Our models compared", tables=[Table(head, rows)], figures=plots, note=note)


def judged(reports: RunReports, figures: bool) -> Section | None:
    """TwiFF-Bench: marks with their coverage, by category, and who judged; None where nothing was."""
    if not (models := reports.twiffbench):
        return None
    head = ["model", *MARK_LABELS.values(), "judged"]
    rows, categories = [], []
    for name, report in models.items():
        coverage = report["coverage"]
        reason = f"{report['status']}: {report['reason']}" if report.get("reason") else report["status"]
        state = Cell(f"{coverage['judged']} of {coverage['items']}", reason)
        rows.append(Row([Cell(name), *(mean(report[mark]) for mark in MARKS), state]))
        for category, means in report["splits"].items():
            categories.append(Row([Cell(name), Cell(category), *(mean(means[mark]) for mark in MARKS)]))
    there = "TwiFF-Bench itself" if reports.on_published_data else "TwiFF-Bench itself, other data than our rows"
    rows.append(heading(f"Published (arXiv 2606.05769), not ours: on {there}, by another judge", published=True))
    rows += _published_twiffbench(list(models))
    tables = [Table(head, rows), Table(["model", "category", *MARK_LABELS.values()], categories, "By category", True)]
    if agreements := [row for name, report in models.items() for row in _agreement(name, report)]:
        tables.append(Table(["model", "mark", "quadratic kappa"], agreements, "Agreement of repeated judgements"))
    plots = figure(figures, "scores", "judged_marks", "Marks with intervals", models)
    note = f"Marks from 0 to 5, 95 % bootstrap intervals over items. {_judges(models)}"
    return Section("TwiFF-Bench", tables=tables, figures=plots, note=note)


def _model_row(name: str, report: Mapping[str, Any], reports: RunReports) -> Row:
    scores = [*(report["splits"][split] for split in SPLITS), report["average"]]
    unparsed, origin = report["unparsed"], reports.models.get(name)
    cells = [*map(percent, scores), Cell(str(unparsed["count"]), f"of {unparsed['n']}")]
    data = f"data {origin.dataset[:16]}" if origin and origin.dataset else ""
    made = Cell(origin.checkpoint[:16], data) if origin else Cell(DASH)
    return Row([Cell(name, origin.stage if origin else ""), *cells, made])


def _parsers(models: Mapping[str, Mapping[str, Any]]) -> Table:
    """The same answers read by every parser; last, only those in which the run's parser finds an option."""
    names = list(dict.fromkeys(name for report in models.values() for name in report["parsers"]))
    rows = []
    for model, report in models.items():
        read = [report["parsers"][name] for name in names]
        cells = [Cell(percent(one).value, f"{percent(one).note}, {one['unparsed']} unparsed") for one in read]
        rows.append(Row([Cell(model), *cells, percent(report["among_parsed"])]))
    return Table(["model", *names, "among answers that name an option"], rows, "Parsers side by side", folded=True)


def _agreement(name: str, report: Mapping[str, Any]) -> list[Row]:
    rows = []
    for mark, one in (report.get("agreement") or {}).items():
        kappa = DASH if one["kappa"] is None else f"{one['kappa']:.2f}"
        rows.append(Row([Cell(name), Cell(MARK_LABELS[mark]), Cell(kappa, f"n = {one['n']}")]))
    return rows


def _judges(models: Mapping[str, Mapping[str, Any]]) -> str:
    """The judge, its prompt and its inputs: a sentence for each distinct configuration."""
    values = []
    for judge in (report["judge"] for report in models.values() if report["judge"]):
        images = (
            f", {'with' if judge['judge_sees_images'] else 'without'} images" if "judge_sees_images" in judge else ""
        )
        truth = f", {judge['ground_truth']} ground truth" if "ground_truth" in judge else ""
        often = f", {judge['judge_samples']} judgements an item" if judge.get("judge_samples", 1) > 1 else ""
        values.append(f"Judge: {judge['model']} (prompt {judge['prompt']}{images}{truth}{often}).")
    return " ".join(dict.fromkeys(values))


def _published_futurebench(beside: Sequence[str]) -> tuple[list[Row], list[Row]]:
    """The published FutureBench rows: those that stand beside rows of ours, and the others."""
    source = PUBLISHED["futurebench"]
    rows: dict[str, Row] = {}
    for name, scores in source["rows"].items():
        counted = [Proportion(round(s * n / 100), n) for s, n in zip(scores, source["n"], strict=True)]
        bounds = [c.interval or (0.0, 1.0) for c in counted]
        cells = [
            Cell(f"{score:.1f} %", f"{100 * low:.1f}–{100 * high:.1f}, n = {c.n:,}")
            for score, c, (low, high) in zip(scores, counted, bounds, strict=True)
        ]
        rows[name] = Row([Cell(name), *cells, Cell(DASH), Cell("published")], published=True)
    chosen = [name for name in beside if name in rows]
    return [rows[name] for name in chosen], [row for name, row in rows.items() if name not in chosen]


def _published_twiffbench(models: Sequence[str]) -> list[Row]:
    """The published TwiFF-Bench rows of these models of ours."""
    source = PUBLISHED["twiffbench"]
    rows = []
    for name in dict.fromkeys(TWIFF_COUNTERPARTS[model] for model in models if model in TWIFF_COUNTERPARTS):
        cells = [Cell(f"{score:.2f}", f"n = {source['n']:,}") for score in source["rows"][name]]
        rows.append(Row([Cell(name), *cells, Cell(DASH, "no interval published")], published=True))
    return rows


def cost_rows(models: Sequence[str]) -> list[Row]:
    """The published costs of these models of ours: tokens as a whole, one latency."""
    rows = []
    for name in (COST_COUNTERPARTS[model] for model in models if model in COST_COUNTERPARTS):
        tokens, accuracy, seconds, rate = PUBLISHED["inference_cost"]["rows"][name]
        split, cut_short = [Cell(DASH)] * 4, Cell(DASH)
        latency = [Cell(DASH), Cell(f"{seconds:.2f}", "total")]
        cells = [Cell(f"{accuracy:.1f} %", "n = 1,056"), Cell(f"{tokens:.1f}")]
        rows.append(Row([Cell(name), *cells, *split, *latency, Cell(f"{rate:.1f}"), cut_short], published=True))
    return rows
