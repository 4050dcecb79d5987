"""The page's price of accuracy: what an answer costs, and what more training data buys."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.benchmarks.twiffbench import MARK_LABELS, MARKS
from evaluation.reports.run_reports import RunReports
from evaluation.reports.sections.parts import DASH, Cell, Row, Section, Table, figure, heading, mean, percent
from evaluation.reports.sections.published import PUBLISHED, cost_rows

PLAIN_ROWS = 10_000
"""Training rows of a recipe whose name says none, beside namesakes that do (`la_dapo`, `la_dapo_5k`)."""
SPENT = (
    "model", "accuracy", "tokens", "text", "latent", "control", "prompt", "prefill s", "decode s", "% per s",
    "cut short",
)  # fmt: skip
COST_NOTE = (
    "Means over answered items. Control tokens open, close and end; those of the prompt are prefilled, not generated."
    " Seconds are an answer's share of its batch's on one device: what the device gets through, not how long a person"
    " waits. % per s is accuracy in per cent over them. The figure's intervals are of accuracy alone."
)
_SCALED = re.compile(r"(.+?)_(\d+)k")


def cost(reports: RunReports, figures: bool) -> Section:
    """What an answer costs, and what accuracy it buys."""
    answered = {name: report for name, report in reports.futurebench.items() if report["cost"]["n"]}
    rows = [_spent(name, report) for name, report in answered.items()]
    rows.append(heading("Published, not ours: other hardware, and what its seconds span is not said", published=True))
    rows += cost_rows(list(answered))
    tables = [Table(SPENT, rows)]
    if timed := [_waited(name, one) for name, r in answered.items() if (one := r["cost"].get("latency"))]:
        names = ["model", "prefill s", "decode s", "both", "% per s"]
        tables.append(Table(names, timed, "Answers decoded one at a time, on a warm device"))
    drawn = figure(figures, "scores", "cost_against_accuracy", "Accuracy over cost", answered)
    return Section("Cost against accuracy", tables=tables, figures=drawn, note=COST_NOTE)


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
        known = {n: {"mean": PUBLISHED["twiffbench"]["rows"][f"Future-L1-RL {n // 1000}K"][MARKS.index(mark)],
                     "interval": None} for n in (5_000, 10_000, 20_000)}  # fmt: skip
        if any(lines.values()):
            panels[f"TwiFF-Bench {label}"] = lines | {"published": known}
    rows = [
        Row([Cell(family), Cell(f"{n:,}"), percent(accuracy[family][n]), *_marks_of(reports, model)])
        for family, sizes in families.items()
        for n, model in sizes.items()
    ]
    head = ["recipe", "rows of data", "FutureBench", *(f"TwiFF-Bench {label}" for label in MARK_LABELS.values())]
    note = "“Published” is of TwiFF-Bench itself, its own judge and Qwen3-VL-8B, without intervals: not ours."
    drawn = figure(figures, "scores", "data_scaling", "Scores over rows of training data", panels)
    return Section("Data scaling", tables=[Table(head, rows)], figures=drawn, note=note)


def scaled(models: Sequence[str] | Mapping[str, Any]) -> dict[str, dict[int, str]]:
    """Recipes that were trained on several amounts of data: family, then model by rows, ascending.

    `{name}_5k` was trained on 5,000 rows; `{name}` beside such namesakes on PLAIN_ROWS.
    """
    families: dict[str, dict[int, str]] = {}
    for model in models:
        if match := _SCALED.fullmatch(model):
            families.setdefault(match[1], {})[1000 * int(match[2])] = model
    for family, sizes in families.items():
        if family in models:
            sizes.setdefault(PLAIN_ROWS, family)
    return {family: dict(sorted(sizes.items())) for family, sizes in families.items() if len(sizes) > 1}


def _spent(name: str, report: Mapping[str, Any]) -> Row:
    """Means over a model's answers: tokens by kind, of the prompt, and seconds."""
    spent, accuracy = report["cost"], report["average"]["accuracy"]
    kinds = [spent[f"{kind}_tokens"] for kind in ("text", "latent", "control")]
    times = [spent["prefill_seconds"], spent["decode_seconds"]]
    prompt, seconds = spent.get("prompt_tokens"), sum(times)
    said = [*(f"{tokens:.1f}" for tokens in (sum(kinds), *kinds)), DASH if prompt is None else f"{prompt:,.1f}"]
    said += [*(f"{time:.4f}" for time in times), f"{100 * accuracy / seconds:,.0f}" if seconds else DASH]
    return Row(
        [Cell(name, f"n = {spent['n']:,}"), percent(report["average"]), *map(Cell, said), Cell(f"{spent['cut_short']}")]
    )


def _waited(name: str, latency: Mapping[str, Any]) -> Row:
    rate = latency["accuracy_per_second"]
    seconds = [mean(latency[part], 4) for part in ("prefill_seconds", "decode_seconds", "seconds")]
    return Row([Cell(name), *seconds, Cell(DASH if rate is None else f"{rate:,.0f}")])


def _marks_of(reports: RunReports, model: str) -> list[Cell]:
    report = reports.twiffbench.get(model)
    return [mean(report[mark]) if report else Cell(DASH) for mark in MARKS]
