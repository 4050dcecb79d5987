"""The page's lineage: each model's reports back to the source, and examples of rows and items."""

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.reports.lineage import TableRows, Trace, command
from evaluation.reports.run_reports import RunReports
from evaluation.reports.sections.parts import (
    DASH,
    Cell,
    Chain,
    ChainStep,
    Link,
    Row,
    Section,
    Table,
    heading,
    shortened,
)

GROUPS = ("benchmarks", "checkpoints", "curation", "trajectories", "inputs")
"""The steps of a chain: groups of assets, from the reports back to the inputs."""
OUTDATED = "not current any more"
COMMAND_ONLY = ("path", "sha256")
"""Columns that the page leaves out: a path is one machine's."""
MAX_LENGTH = 160
"""Characters of a value that are shown."""


def lineage(reports: RunReports, figures: bool) -> Section | None:
    """Each model's chain, and worked examples; None where nobody gathered them."""
    if (report := reports.lineage) is None:
        return None
    text = (
        "Every number above goes back to the clips, and every clip on to the numbers: a report was made from answers,"
        " these by a checkpoint, that from a set, whose rows come from shards of a revision. The command shows, both"
        " ways, what is not on this page: for an artifact's name or version, a row's or an item's id, or a clip's name."
    )
    chains = [Chain(model, _steps(trace)) for model, trace in report.models.items()]
    examples = (
        (report.rows, f"Rows that {report.best} was trained on: the first of each of its sets by visual gain"),
        (report.items, "Benchmark items that models disagree on, with their answers"),
    )
    tables = [_commands(chains), *(_examples(traces, caption) for traces, caption in examples if traces)]
    return Section("Lineage", text=text, chains=chains, tables=tables)


def _steps(trace: Trace) -> list[ChainStep]:
    """The artifacts upstream by the groups of their assets, several partitions of an asset as one link."""
    links: dict[str, list[Link]] = {group: [] for group in GROUPS}
    partitions: dict[str, list[str]] = {}
    versions = trace.artifacts | trace.upstream
    for name in versions:
        partitions.setdefault("/".join(name.split("/")[:2]), []).append(name)
    for asset, names in partitions.items():
        notes = list(dict.fromkeys(note for name in names if (note := trace.notes.get(name))))
        if len(names) > 1:
            revisions = [note for note in notes if note.startswith("revision")]  # not the counts of one partition
            link = Link(asset, note=", ".join([f"{len(names)} partitions", *revisions]))
        else:
            link = Link(names[0], versions[names[0]], ", ".join(notes))
        links.setdefault(asset.partition("/")[0], []).append(link)
    for name, version in trace.outdated.items():
        links.setdefault(name.partition("/")[0], []).append(Link(name, version[:16], OUTDATED))
    return [ChainStep(group, members) for group, members in links.items() if members]


def _commands(chains: Sequence[Chain]) -> Table:
    rows = []
    for chain in chains:
        rows.append(heading(chain.model))
        rows += [_link(link) for step in chain.steps for link in step.links]
    return Table(["artifact", "version", "what it holds", "command"], rows, "The chains in full", True, words=True)


def _link(link: Link) -> Row:
    follow = Cell(command(link.version), code=True) if link.version and link.note != OUTDATED else Cell(DASH)
    return Row([Cell(link.artifact), Cell(link.version or DASH), Cell(link.note or DASH), follow])


def _examples(traces: Sequence[Trace], caption: str) -> Table:
    rows = []
    for trace in traces:
        rows.append(Row([Cell(trace.id, note=f"follow it with: {command(trace.id)}")]))
        rows += [_table_row(table) for table in trace.tables]
        if trace.checkpoints:
            rows.append(Row([Cell("trained on it"), Cell(DASH), Cell(", ".join(trace.checkpoints))]))
    return Table(["artifact", "file", "row"], rows, caption, words=True)


def _table_row(table: TableRows) -> Row:
    more = f"and {len(table.rows) - 1} more rows" if len(table.rows) > 1 else ""
    revision = f"revision {table.revision}" if table.revision else table.version
    row = {name: value for name, value in table.rows[0].items() if name not in COMMAND_ONLY}
    return Row([Cell(table.artifact, revision), Cell(table.file), Cell(in_a_line(row, MAX_LENGTH), more)])


def in_a_line(row: Mapping[str, Any], max_length: int) -> str:
    """The columns of a row that are not null, each value cut at so many characters."""
    return ", ".join(f"{name} {shortened(str(value), max_length)}" for name, value in row.items() if value is not None)
