"""A model's scores on its card: benchmarks with n and intervals, and what became of its answers without its latents."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from evaluation.benchmarks.futurebench_items import SPLIT_LABELS
from evaluation.benchmarks.twiffbench import MARK_LABELS
from evaluation.reports.latents import necessity
from evaluation.reports.parts import Section, Table, markdown_lines, mean, percent, row
from evaluation.reports.run_reports import RunReports
from evaluation.reports.scores import judge_sentences

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TASK = "image-text-to-text"
TOYWORLD = " format, items of the demo's toy world"
"""Follows a benchmark's name where the items are not those of the benchmark itself."""


def scores(reports: RunReports) -> str | None:
    """The reports of one model as Markdown, below headings of the third level; None without any."""
    sections = [
        *(_futurebench(report, reports) for report in reports.futurebench.values()),
        *(_twiffbench(report, reports) for report in reports.twiffbench.values()),
        *([_necessity(section)] if (section := necessity(reports, figures=False)) else []),
    ]
    lines = [line for section in sections for line in markdown_lines(section)]
    return "\n".join(f"#{line}" if line.startswith("## ") else line for line in lines).strip() or None


def eval_results(reports: RunReports) -> "list[EvalResult]":
    """The same scores as the hub's metadata, for its lists of results."""
    results = []
    for report in reports.futurebench.values():
        average = report["average"]
        results.append(_result("FutureBench", "accuracy", average["accuracy"], average, reports))
    for report in reports.twiffbench.values():
        for mark in MARK_LABELS:
            results.append(_result("TwiFF-Bench", mark, report[mark]["mean"], report[mark], reports))
    return [result for result in results if result is not None]


def _futurebench(report: Mapping[str, Any], reports: RunReports) -> Section:
    splits = {SPLIT_LABELS.get(name, name): score for name, score in report["splits"].items()}
    rows = [row(name, percent(score)) for name, score in (splits | {"average": report["average"]}).items()]
    unparsed = report["unparsed"]
    note = (
        f"95 % Wilson intervals; parser: {report['parser']}, which reads no option in {unparsed['count']:,} of"
        f" {unparsed['n']:,} answers; {report['missing']:,} of {report['items']:,} items have no answer."
    )
    return Section(_title("FutureBench", reports), tables=[Table(["split", "accuracy"], rows)], note=note)


def _twiffbench(report: Mapping[str, Any], reports: RunReports) -> Section:
    rows = [row(label, mean(report[mark])) for mark, label in MARK_LABELS.items()]
    coverage = report["coverage"]
    judged = f"{coverage['judged']:,} of {coverage['items']:,} items judged."
    note = f"Marks from 0 to 5, 95 % bootstrap intervals; {judged} {judge_sentences([report])}"
    return Section(_title("TwiFF-Bench", reports), tables=[Table(["mark", "mean"], rows)], note=note)


def _necessity(section: Section) -> Section:
    """The page's section without what explains its figure, and without the table once more in sentences."""
    note = "The same items, paired by item; latents are replaced during decoding. McNemar's p is of one comparison."
    return replace(section, title="Latent necessity", tables=section.tables[:1], note=note)


def _result(
    benchmark: str, metric: str, value: float | None, score: Mapping[str, Any], reports: RunReports
) -> "EvalResult | None":
    from huggingface_hub import EvalResult

    if value is None:
        return None
    low, high = score["interval"]
    return EvalResult(
        task_type=TASK,
        dataset_type=benchmark.lower().replace("-", ""),
        dataset_name=_title(benchmark, reports),
        metric_type=metric,
        metric_name=f"{metric} (n = {score['n']}, 95 % interval {low:.3f} to {high:.3f})",
        metric_value=round(value, 4),
    )


def _title(benchmark: str, reports: RunReports) -> str:
    return benchmark if reports.on_published_data else f"{benchmark}{TOYWORLD}"
