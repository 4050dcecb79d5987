"""The page's lineage: each model's reports back to the source, and examples of rows and items."""

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.reports.parts import DASH, Cell, Chain, Link, Row, Section, Table, row, shortened
from evaluation.reports.run_reports import RunReports, TableRows, Trace, command

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
    chains = {model: _chain(trace) for model, trace in report.models.items()}
    examples = (
        (report.rows, f"Rows that {report.best} was trained on: the first of each of its sets by visual gain"),
        (report.items, "Benchmark items that models disagree on, with their answers"),
    )
    tables = [_commands(chains), *(_examples(traces, caption) for traces, caption in examples if traces)]
    return Section("Lineage", text=text, chains=chains, tables=tables)


def _chain(trace: Trace) -> Chain:
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
    return {group: members for group, members in links.items() if members}


def _commands(chains: Mapping[str, Chain]) -> Table:
    rows = []
    for model, chain in chains.items():
        rows.append(row(model))
        for link in (link for links in chain.values() for link in links):
            follow = Cell(command(link.version), code=True) if link.version and link.note != OUTDATED else DASH
            rows.append(row(link.artifact, link.version or DASH, link.note or DASH, follow))
    return Table(["artifact", "version", "what it holds", "command"], rows, "The chains in full", True, words=True)


def _examples(traces: Sequence[Trace], caption: str) -> Table:
    rows = []
    for trace in traces:
        rows.append(row(Cell(trace.id, note=f"follow it with: {command(trace.id)}")))
        rows += [_table_row(table) for table in trace.tables]
        if trace.checkpoints:
            rows.append(row("trained on it", DASH, ", ".join(trace.checkpoints)))
    return Table(["artifact", "file", "row"], rows, caption, words=True)


def _table_row(table: TableRows) -> Row:
    more = f"and {len(table.rows) - 1} more rows" if len(table.rows) > 1 else ""
    revision = f"revision {table.revision}" if table.revision else table.version
    values = {name: value for name, value in table.rows[0].items() if name not in COMMAND_ONLY}
    return row(Cell(table.artifact, revision), table.file, Cell(in_a_line(values, MAX_LENGTH), more))


def in_a_line(row: Mapping[str, Any], max_length: int) -> str:
    """The columns of a row that are not null, each value cut at so many characters."""
    return ", ".join(f"{name} {shortened(str(value), max_length)}" for name, value in row.items() if value is not None)
