"""The comparison: every number of a run on one self-contained HTML page, and the same in Markdown.

Built from report JSONs alone, so it can be rebuilt at any time without a model.  Published rows stand beside ours only
where marked as published: they are other models' scores on other data when this is the demo.
"""

import base64
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
from pydantic import BaseModel, ConfigDict

from evaluation.futurebench import SPLITS
from evaluation.statistics import paired_difference
from evaluation.twiffbench import MARKS

HERE = Path(__file__).parent
PUBLISHED_ROWS = ("Qwen3-VL-8B zero-shot", "text-only SFT", "Future-L1-SFT", "Future-L1-RL (LA-DAPO)")
HEADINGS = {"hop1": "1 hop", "hop2": "2 hops", "hop3": "3 hops", "hop5": "interpolation", "average": "average"}


class RunReports(BaseModel):
    """What a run reports, as the report modules wrote it; models in the order in which they should be read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    curation: dict[str, Any]
    futurebench: dict[str, dict[str, Any]]
    twiffbench: dict[str, dict[str, Any]] = {}
    necessity: dict[str, dict[str, Any]] = {}
    paired: list[dict[str, Any]] = []
    seconds: dict[str, float] = {}
    provenance: dict[str, str] = {}


@dataclass(frozen=True)
class Cell:
    value: str
    note: str = ""


@dataclass(frozen=True)
class Row:
    cells: Sequence[Cell]
    published: bool = False


@dataclass(frozen=True)
class Table:
    head: Sequence[str]
    rows: Sequence[Row]


@dataclass(frozen=True)
class FigureImage:
    name: str
    alt: str
    png: bytes

    @property
    def data(self) -> str:
        return base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Section:
    title: str
    text: str = ""
    table: Table | None = None
    figures: Sequence[FigureImage] = ()
    quotes: Sequence[str] = field(default_factory=tuple)
    note: str = ""


def html_page(reports: RunReports, title: str, subtitle: str) -> str:
    """One page with no external resources."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((HERE / "report.html.j2").read_text(encoding="utf-8"))
    return template.render(title=title, subtitle=subtitle, tiles=_tiles(reports), sections=sections(reports))


def markdown_page(reports: RunReports, title: str, subtitle: str) -> str:
    """The same sections as text; figures are left to the page."""
    lines = [f"# {title}", "", subtitle, ""]
    for section in sections(reports, with_figures=False):
        lines += [f"## {section.title}", ""]
        lines += [section.text, ""] if section.text else []
        lines += [line for quote in section.quotes for line in (f"> {quote}", "")]
        lines += [*_markdown_table(section.table), ""] if section.table else []
        lines += [section.note, ""] if section.note else []
    return "\n".join(lines).rstrip() + "\n"


def paired_rows(graded: Mapping[str, pl.DataFrame], starts: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each model against the one that it was trained from, else the one before it, on the items that both answered.

    graded: `evaluation.futurebench.graded` by model; starts: the model that a model was trained from, where it is here.
    """
    rows = []
    for previous, after in itertools.pairwise(graded):
        before = starts[after] if starts.get(after) in graded else previous
        pairs = graded[before].join(graded[after], on="id", suffix="_after", maintain_order="left")
        if pairs.height:
            difference = paired_difference(pairs["correct"].to_list(), pairs["correct_after"].to_list())
            rows.append({"before": before, "after": after, **difference.as_dict()})
    return rows


def sections(reports: RunReports, with_figures: bool = True) -> list[Section]:
    """Every part of the report that the run has numbers for."""
    parts = [_futurebench(reports, with_figures)]
    if reports.twiffbench:
        parts.append(_twiffbench(reports))
    if reports.necessity:
        parts.append(_necessity(reports, with_figures))
    parts += [_spans(reports, with_figures), _curation(reports, with_figures), _published()]
    if reports.seconds:
        rows = [Row([Cell(stage), Cell(f"{seconds:,.1f}")]) for stage, seconds in reports.seconds.items()]
        parts.append(Section("Seconds per stage", table=Table(["stage", "seconds"], rows)))
    if reports.provenance:
        rows = [Row([Cell(name), Cell(version)]) for name, version in reports.provenance.items()]
        parts.append(Section("Provenance", table=Table(["artifact", "version"], rows)))
    return parts


def _futurebench(reports: RunReports, with_figures: bool) -> Section:
    models = reports.futurebench
    rows = []
    for name, report in models.items():
        scores = [*(report["splits"][split] for split in SPLITS), report["average"]]
        unparsed, named = report["unparsed"], report["among_parsed"]
        cells = [_percent(score) for score in scores]
        rows.append(Row([Cell(name), *cells, Cell(f"{unparsed['count']}", f"of {unparsed['n']}"), _percent(named)]))
    parsers = sorted({report["parser"] for report in models.values()})
    missing = sum(report["missing"] for report in models.values())
    note = f"Accuracy with 95 % Wilson intervals, as generated; read by the parser {', '.join(parsers)}."
    note += " The last column counts only answers in which the parser found an option."
    note += f" Items without an answer: {missing}; they are missing, not wrong." if missing else ""
    for pair in reports.paired:
        low, high = pair["interval"]
        note += (
            f" {pair['before']} → {pair['after']}: {100 * pair['difference']:+.1f} points"
            f" ({100 * low:+.1f} to {100 * high:+.1f}, paired, n = {pair['n']}, McNemar p = {pair['p_value']:.1g})."
        )
    figures = _figure(with_figures, "accuracy_by_hop", "Accuracy by depth with intervals", models)
    head = ["model", *HEADINGS.values(), "unparsed", "named an option"]
    return Section("FutureBench", table=Table(head, rows), figures=figures, note=note)


def _twiffbench(reports: RunReports) -> Section:
    rows, judges = [], set()
    for name, report in reports.twiffbench.items():
        coverage = report["coverage"]
        judged = Cell(f"{coverage['judged']} of {coverage['items']}", report["status"])
        rows.append(Row([Cell(name), *(_mean(report[mark]) for mark in MARKS), judged]))
        judges.add(report["judge"]["model"])
    note = f"Marks from 0 to 5 by {', '.join(sorted(judges))}, with 95 % bootstrap intervals over items."
    return Section("TwiFF-Bench", table=Table(["model", "CoT", "Answer", "Average", "judged"], rows), note=note)


def _necessity(reports: RunReports, with_figures: bool) -> Section:
    rows, quotes = [], []
    for name, report in reports.necessity.items():
        rows.append(Row([Cell(name), Cell("own latents"), _percent(report["own"]), Cell(""), Cell("")]))
        for intervention, row in report["interventions"].items():
            low, high = row["difference"]["interval"]
            change = Cell(f"{100 * row['difference']['difference']:+.1f}", f"{100 * low:+.1f} to {100 * high:+.1f}")
            label = Cell(intervention.replace("_", " "))
            rows.append(Row([Cell(""), label, _percent(row["accuracy"]), change, _percent(row["answers_changed"])]))
        quotes.append(f"{name}: {report['verdict']}")
    figures = _figure(with_figures, "necessity", "Accuracy when latents are replaced", reports.necessity)
    head = ["model", "latents", "accuracy", "change (points)", "answers changed"]
    note = "The same items, paired; each latent is replaced while the answer is decoded."
    return Section("Do the latents matter?", table=Table(head, rows), figures=figures, quotes=quotes, note=note)


def _spans(reports: RunReports, with_figures: bool) -> Section:
    rows = [
        Row([Cell(name), *(_mean(report["spans"][split]) for split in SPLITS)])
        for name, report in reports.futurebench.items()
    ]
    used = {name: r for name, r in reports.futurebench.items() if any(r["spans"][s]["mean"] for s in SPLITS)}
    figures = _figure(with_figures and bool(used), "spans_by_hop", "Latent spans per answer by depth", used)
    note = "Latent spans per answer, counted on generated tokens; 95 % bootstrap intervals."
    return Section(
        "When the model imagines",
        table=Table(["model", *list(HEADINGS.values())[:-1]], rows),
        figures=figures,
        note=note,
    )


def _curation(reports: RunReports, with_figures: bool) -> Section:
    report = reports.curation
    reasons = {"scored": report["scored"], "kept": report["kept"], **report["rejected_by_reason"]}
    reasons["pending"] = report["pending"]
    rows = [Row([Cell(name.replace("_", " ")), Cell(f"{count:,}")]) for name, count in reasons.items()]
    histograms = (report["gain_histogram"], report["gain_histogram_kept"])
    figures = _figure(with_figures, "gain_histogram", "Rows by visual gain", *histograms)
    return Section("Curation by visual gain", table=Table(["rows", "count"], rows), figures=figures)


def _published() -> Section:
    known = json.loads((HERE / "published.json").read_text(encoding="utf-8"))["futurebench"]
    rows = [
        Row([Cell(name), *(Cell(f"{score:.1f}") for score in known["rows"][name])], published=True)
        for name in PUBLISHED_ROWS
    ]
    counts = Row([Cell("n"), *(Cell(str(n)) for n in known["n"])], published=True)
    text = "Scores of the paper (arXiv 2606.05769) in percent, on FutureBench itself with Qwen3-VL-8B: not ours."
    table = Table(["published", *HEADINGS.values()], [*rows, counts])
    return Section("Published for comparison", text=text, table=table)


def _figure(wanted: bool, name: str, alt: str, *data: Any) -> list[FigureImage]:
    if not wanted:
        return []
    from evaluation import figures  # matplotlib takes a second to load

    return [FigureImage(name, alt, getattr(figures, name)(*data))]


def _tiles(reports: RunReports) -> list[dict[str, str]]:
    tiles = [
        {"value": _percent(report["average"]).value, "label": f"{name} on FutureBench (n = {report['average']['n']})"}
        for name, report in reports.futurebench.items()
    ]
    kept = f"{reports.curation['kept']:,}"
    return [*tiles, {"value": kept, "label": f"rows kept of {reports.curation['scored']:,} scored"}]


def _percent(score: Mapping[str, Any]) -> Cell:
    if score["accuracy"] is None:
        return Cell("–", "n = 0")
    low, high = score["interval"]
    return Cell(f"{100 * score['accuracy']:.1f} %", f"{100 * low:.1f}–{100 * high:.1f}, n = {score['n']}")


def _mean(score: Mapping[str, Any]) -> Cell:
    if score["mean"] is None:
        return Cell("–", "n = 0")
    low, high = score["interval"]
    return Cell(f"{score['mean']:.2f}", f"{low:.2f}–{high:.2f}, n = {score['n']}")


def _markdown_table(table: Table) -> list[str]:
    cells = [[f"{c.value} ({c.note})" if c.note else c.value for c in row.cells] for row in table.rows]
    return [f"| {' | '.join(row)} |" for row in [list(table.head), ["---"] * len(table.head), *cells]]
