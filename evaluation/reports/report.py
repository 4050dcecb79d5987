"""The comparison report: every number of a run on one self-contained HTML page, and the same in Markdown.

Built from report JSONs alone, so it can be rebuilt at any time without a model.  Published rows stand beside ours only
where marked as published: they are other models' scores on other data when this is the demo.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evaluation.reports import latents, lineage, runs, scores
from evaluation.reports.parts import Cell, FigureImage, Section, markdown_lines, markdown_table, percent
from evaluation.reports.run_reports import RunReports

TEMPLATE = Path(__file__).parent / "report.html.j2"
TILES = 4
"""Models in the tiles at the top of the page."""


@dataclass(frozen=True)
class Page:
    """The content of the page: as HTML, as Markdown, and figure by figure."""

    title: str
    subtitle: str
    tiles: list[Cell]
    sections: list[Section]

    def html(self) -> str:
        """One page with no external resources; its own policy forbids any request."""
        import jinja2

        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
        template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
        return template.render(page=self)

    def markdown(self) -> str:
        """The same sections as text; figures are left to the page."""
        lines = [f"# {self.title}", "", self.subtitle, ""]
        sections = [section for section in self.sections if section.tables or section.quotes or section.chains]
        lines += [line for section in sections for line in markdown_lines(section)]
        return "\n".join(lines).rstrip() + "\n"

    def main_table(self) -> str:
        """The comparison itself, in Markdown: our rows, then the published ones."""
        return "\n".join(markdown_table(self.sections[0].tables[0])) + "\n"

    def figures(self) -> list[FigureImage]:
        """Every figure and picture of the page, in order."""
        return [figure for section in self.sections for figure in section.figures]


def build_page(reports: RunReports, title: str, subtitle: str, with_figures: bool = True) -> Page:
    """Every part of the report that the run has numbers for, in the order in which they are read.

    Raises ValueError for a picture that is no PNG.
    """
    parts: list[Callable[[RunReports, bool], Section | None]] = [
        scores.comparison, scores.paired, scores.judged, latents.necessity, latents.controls, latents.latent_retrieval,
        latents.spans, latents.latent_map, runs.cost, runs.scaling, runs.curation, runs.rewards, runs.storyboards,
        lineage.lineage, runs.seconds, runs.provenance,
    ]  # fmt: skip
    sections = [section for part in parts if (section := part(reports, with_figures))]
    return Page(title, subtitle, _tiles(reports), sections)


def _tiles(reports: RunReports) -> list[Cell]:
    """The first model and those with the highest averages in reading order, and the rows kept."""
    average = {name: report["average"] for name, report in reports.futurebench.items()}
    best = sorted(list(average)[1:], key=lambda name: average[name]["accuracy"] or 0.0, reverse=True)[: TILES - 1]
    tiles = []
    for name in average:
        if name in best or name == next(iter(average)):
            score = percent(average[name])
            note = f"{name} on FutureBench ({score.note})"
            tiles.append(Cell(score.value, note, link=lineage.chain_link(reports, name)))
    kept = f"{reports.curation['kept']:,}"
    return [*tiles, Cell(kept, f"rows kept of {reports.curation['scored']:,} scored")]
