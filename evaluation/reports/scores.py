"""The page's scores: our rows beside the published ones, paired tests between ours, and judged marks."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluation.benchmarks.futurebench_items import SPLIT_LABELS, SPLITS
from evaluation.benchmarks.twiffbench import MARK_LABELS, MARKS
from evaluation.reports.lineage import chain_link
from evaluation.reports.parts import DASH, Cell, Row, Section, Table, mean, p_value, percent, plot, points, row
from evaluation.reports.run_reports import RunReports, holm
from evaluation.statistics import Proportion
from training.runtime.printable import model_label

PUBLISHED: dict[str, Any] = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
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
    models = reports.futurebench
    head = ["model", *SPLIT_LABELS.values(), "average", "unparsed", "checkpoint"]
    rows = [_model_row(name, report, reports) for name, report in models.items()]
    beside, others = _published_futurebench([COUNTERPARTS.get(name, "") for name in models])
    there = f"FutureBench itself{_other_data(reports)}"
    banner = row(f"Published (arXiv 2606.05769), not ours: Qwen3-VL-8B on {there}", published=True)
    parsers = sorted({report["parser"] for report in models.values()})
    missing = [f"{name} {r['missing']:,} of {r['items']:,}" for name, r in models.items() if r["missing"]]
    note = (
        f"Accuracy with 95 % Wilson intervals, as generated; parser: {', '.join(parsers)}."
        " Intervals of published rows are ours, from the published score and n."
    )
    note += f" Partial, items without an answer: {', '.join(missing)}; they are missing, not wrong." if missing else ""
    sizes = " / ".join(f"{n:,}" for n in sorted({report["average"]["n"] for report in models.values()}))
    text = (
        f"Our rows are of other data (n = {sizes}) than the published rows (n = {PUBLISHED['futurebench']['n'][-1]:,}),"
        " and of other models: compare our rows with each other, not with those."
    )
    tables = [
        Table(head, [*rows, banner, *beside]),
        Table(head, others, "Other published models, as arXiv 2606.05769 quotes them", folded=True),
        _parsers(models),
    ]
    plots = plot(figures, "scores", "accuracy_by_hop", "Accuracy by depth with intervals", models)
    earlier = [f"{model} ({', '.join(inputs)})" for model, inputs in reports.outdated.items()]
    notes = [] if reports.on_published_data else [text]
    notes += [f"Not trained on the current sets, but on an earlier version: {'; '.join(earlier)}."] if earlier else []
    return Section("FutureBench", text=" ".join(notes), tables=tables, figures=plots, note=note)


def paired(reports: RunReports, figures: bool) -> Section | None:
    """Paired tests between our models on the same items; None where there is one model."""
    if not reports.paired:
        return None
    rows = []
    for pair, adjusted in zip(reports.paired, holm([pair["p_value"] for pair in reports.paired]), strict=True):
        values = (str(pair["only_a"]), str(pair["only_b"]), p_value(pair["p_value"]), p_value(adjusted))
        rows.append(row(f"{pair['before']} → {pair['after']}", points(pair), *values))
    head = ["models", "change (points)", "only the first correct", "only the second correct", "McNemar p", "p, Holm"]
    note = (
        "The same items answered by both: exact McNemar tests, intervals of Bonett and Price; Holm's adjustment is for"
        f" these {len(rows)} tests together."
    )
    plots = plot(figures, "scores", "paired_differences", "Paired differences with intervals", reports.paired)
    return Section("Our models compared", tables=[Table(head, rows)], figures=plots, note=note)


def judged(reports: RunReports, figures: bool) -> Section | None:
    """TwiFF-Bench: marks with their coverage, by category, and who judged; None where nothing was."""
    if not (models := reports.twiffbench):
        return None
    rows, categories, agreements = [], [], []
    for name, report in models.items():
        coverage = report["coverage"]
        reason = f"{report['status']}: {report['reason']}" if report.get("reason") else report["status"]
        state = Cell(f"{coverage['judged']} of {coverage['items']}", reason)
        link = chain_link(reports, name)
        rows.append(row(name, *(replace(mean(report[mark]), link=link) for mark in MARKS), state))
        for category, means in report["splits"].items():
            categories.append(row(name, category, *(mean(means[mark]) for mark in MARKS)))
        for mark, agreement in (report.get("agreement") or {}).items():
            kappa = DASH if agreement["kappa"] is None else f"{agreement['kappa']:.2f}"
            agreements.append(row(name, MARK_LABELS[mark], Cell(kappa, f"n = {agreement['n']}")))
    there = f"TwiFF-Bench itself{_other_data(reports)}"
    rows.append(row(f"Published (arXiv 2606.05769), not ours: on {there}, by another judge", published=True))
    source = PUBLISHED["twiffbench"]
    for name in dict.fromkeys(TWIFF_COUNTERPARTS[model] for model in models if model in TWIFF_COUNTERPARTS):
        cells = [Cell(f"{score:.2f}", f"n = {source['n']:,}") for score in source["rows"][name]]
        rows.append(row(name, *cells, Cell(DASH, "no interval published"), published=True))
    labels = MARK_LABELS.values()
    tables = [
        Table(["model", *labels, "judged"], rows),
        Table(["model", "category", *labels], categories, "By category", True),
    ]
    if agreements:
        tables.append(Table(["model", "mark", "quadratic kappa"], agreements, "Agreement of repeated judgements"))
    plots = plot(figures, "scores", "judged_marks", "Marks with intervals", models)
    note = f"Marks from 0 to 5, 95 % bootstrap intervals over items. {judge_sentences(models.values())}"
    return Section("TwiFF-Bench", tables=tables, figures=plots, note=note)


def cost_rows(models: Sequence[str]) -> list[Row]:
    """The published costs of these models of ours: tokens as a whole, one latency."""
    rows = []
    for name in (COST_COUNTERPARTS[model] for model in models if model in COST_COUNTERPARTS):
        tokens, accuracy, seconds, rate = PUBLISHED["inference_cost"]["rows"][name]
        score, latency = Cell(f"{accuracy:.1f} %", "n = 1,056"), Cell(f"{seconds:.2f}", "total")
        rows.append(row(name, score, f"{tokens:.1f}", *[DASH] * 5, latency, f"{rate:.1f}", DASH, published=True))
    return rows


def _other_data(reports: RunReports) -> str:
    return "" if reports.on_published_data else ", other data than our rows"


def _model_row(name: str, report: Mapping[str, Any], reports: RunReports) -> Row:
    origin, link = reports.models.get(name), chain_link(reports, name)
    proportions = [*(report["splits"][split] for split in SPLITS), report["average"]]
    scores = [replace(percent(proportion), link=link) for proportion in proportions]
    unparsed = Cell(str(report["unparsed"]["count"]), f"of {report['unparsed']['n']}")
    if origin is None:
        return row(name, *scores, unparsed, DASH)
    checkpoint = Cell(origin.checkpoint[:16], f"data {origin.dataset[:16]}" if origin.dataset else "")
    return row(Cell(name, origin.stage), *scores, unparsed, checkpoint)


def _parsers(models: Mapping[str, Mapping[str, Any]]) -> Table:
    """The same answers read by every parser; last, only those in which the run's parser finds an option."""
    names = list(dict.fromkeys(name for report in models.values() for name in report["parsers"]))
    rows = []
    for model, report in models.items():
        scores = [(percent(report["parsers"][name]), report["parsers"][name]["unparsed"]) for name in names]
        cells = [Cell(score.value, f"{score.note}, {unparsed} unparsed") for score, unparsed in scores]
        rows.append(row(model, *cells, percent(report["among_parsed"])))
    return Table(["model", *names, "among answers that name an option"], rows, "Parsers side by side", folded=True)


def judge_sentences(reports: Iterable[Mapping[str, Any]]) -> str:
    """The judge, its prompt and its inputs: a sentence for each distinct configuration."""
    sentences = []
    for judge in (report["judge"] for report in reports if report["judge"]):
        inputs = [f"prompt {judge['prompt']}"]
        if "judge_sees_images" in judge:
            inputs.append("with images" if judge["judge_sees_images"] else "without images")
        if "ground_truth" in judge:
            inputs.append(f"{judge['ground_truth']} ground truth")
        if judge.get("judge_samples", 1) > 1:
            inputs.append(f"{judge['judge_samples']} judgements an item")
        sentences.append(f"Judge: {model_label(judge['model'])} ({', '.join(inputs)}).")
    return " ".join(dict.fromkeys(sentences))


def _published_futurebench(beside: Sequence[str]) -> tuple[list[Row], list[Row]]:
    """The published FutureBench rows: those that stand beside rows of ours, and the others."""
    source = PUBLISHED["futurebench"]
    rows: dict[str, Row] = {}
    for name, scores in source["rows"].items():
        cells = []
        for score, n in zip(scores, source["n"], strict=True):
            low, high = Proportion(round(score * n / 100), n).interval or (0.0, 1.0)
            cells.append(Cell(f"{score:.1f} %", f"{100 * low:.1f}–{100 * high:.1f}, n = {n:,}"))
        rows[name] = row(name, *cells, DASH, "published", published=True)
    chosen = [name for name in beside if name in rows]
    return [rows[name] for name in chosen], [each for name, each in rows.items() if name not in chosen]
