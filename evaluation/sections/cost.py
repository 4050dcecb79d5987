"""The page's price of accuracy: what an answer costs, and what more training data buys."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.run_reports import RunReports
from evaluation.sections.parts import DASH, Cell, Row, Section, Table, figure, heading, mean, percent
from evaluation.sections.published import PUBLISHED, cost_rows
from evaluation.sections.scores import MARK_HEADS
from evaluation.twiffbench import MARKS

PLAIN_ROWS = 10_000
"""Training rows of a recipe whose name says none, beside namesakes that do (`la_dapo`, `la_dapo_5k`)."""
_SCALED = re.compile(r"(.+?)_(\d+)k")


def cost(reports: RunReports, figures: bool) -> Section:
    """What an answer costs, and what accuracy it buys."""
    rows, timed = [], []
    for name, report in reports.futurebench.items():
        spent, accuracy = report["cost"], report["average"]["accuracy"]
        if not spent["n"]:
            continue
        seconds = spent["prefill_seconds"] + spent["decode_seconds"]
        numbers = [spent[f"{kind}_tokens"] for kind in ("text", "latent", "control")]
        cells = [f"{n:.1f}" for n in [sum(numbers), *numbers]]
        cells += [f"{spent['prefill_seconds']:.4f}", f"{spent['decode_seconds']:.4f}"]
        cells += [f"{100 * accuracy / seconds:,.0f}" if seconds else DASH, f"{spent['cut_short']}"]
        rows.append(Row([Cell(name, f"n = {spent['n']:,}"), percent(report["average"]), *map(Cell, cells)]))
        if latency := spent.get("latency"):
            rate = latency["accuracy_per_second"]
            seconds_of = [mean(latency[part], 4) for part in ("prefill_seconds", "decode_seconds", "seconds")]
            timed.append(Row([Cell(name), *seconds_of, Cell(DASH if rate is None else f"{rate:,.0f}")]))
    rows.append(heading("Published, not ours: other hardware, and what its seconds span is not said", published=True))
    rows += cost_rows(list(reports.futurebench))
    head = ["model", "accuracy", "tokens", "text", "latent", "control", "prefill s", "decode s", "% per s", "cut short"]
    note = (
        "Means over answered items; control tokens open, close and end. Seconds are an answer's share of its batch's on"
    )
    note += (
        " one device: what the device gets through, not how long a person waits. % per s is accuracy in per cent over"
    )
    note += " them. The figure's intervals are of accuracy alone."
    tables = [Table(head, rows)]
    if timed:
        names = ["model", "prefill s", "decode s", "both", "% per s"]
        tables.append(Table(names, timed, "Answers decoded one at a time, on a warm device"))
    drawn = figure(figures, "scores", "cost_against_accuracy", "Accuracy over cost", reports.futurebench)
    return Section("Cost against accuracy", tables=tables, figures=drawn, note=note)


def scaling(reports: RunReports, figures: bool) -> Section | None:
    """Scores over rows of training data, where a recipe was trained on several; None where none was."""
    families = scaled(reports.futurebench)
    if not families:
        return None
    accuracy = {f: {n: reports.futurebench[m]["average"] for n, m in sizes.items()} for f, sizes in families.items()}
    panels: dict[str, Any] = {"FutureBench accuracy": accuracy}
    for mark, label in MARK_HEADS.items():
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
    head = ["recipe", "rows of data", "FutureBench", *(f"TwiFF-Bench {label}" for label in MARK_HEADS.values())]
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


def _marks_of(reports: RunReports, model: str) -> list[Cell]:
    report = reports.twiffbench.get(model)
    return [mean(report[mark]) if report else Cell(DASH) for mark in MARKS]
