"""The page's lineage: each model's reports back to the source, and examples of rows and items."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from evaluation.reports.edges import KINDS, asset_of
from evaluation.reports.parts import (
    DASH,
    Cell,
    Chain,
    Link,
    Row,
    Section,
    Table,
    anchor,
    chain_anchor,
    picture,
    row,
    shortened,
)
from evaluation.reports.run_reports import LineageReport, RunReports, TableRows, Trace, command

EXAMPLES = "examples"
"""Storyboards of rows and items are under this name in `RunReports.pictures`."""
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
        "Every number above leads to the chain of its model here, and what is underlined in a chain to the storyboard"
        " of a row or an item in it. A report scores answers, a model gave these, it was trained on a set, whose rows"
        " come from shards of a revision; an excluded benchmark is one whose items were kept out. The command shows,"
        " both ways, what is not on this page: for an asset, a partition, an artifact's version, a row's or an item's"
        " id, or a clip's name."
    )
    ids = [trace.id for trace in (*report.rows, *report.items) if figures]
    names = {identifier: name for identifier in ids if (name := f"{EXAMPLES}/{identifier}") in reports.pictures}
    boards = {identifier: anchor("storyboard", str(number)) for number, identifier in enumerate(names)}
    chains = {model: _chain(trace, report, boards) for model, trace in report.models.items()}
    tables = [_commands(chains)]
    if report.rows:
        caption = "Rows that models were trained on: the first of each set by visual gain"
        tables.append(_examples(report.rows, caption, boards))
    if report.items:
        tables.append(_examples(report.items, "Benchmark items that models disagree on, with their answers", boards))
    pictures = [picture(name, reports.pictures[name], boards[identifier]) for identifier, name in names.items()]
    return Section("Lineage", text=text, chains=chains, figures=pictures, tables=tables)


def chain_link(reports: RunReports, model: str) -> str:
    """The anchor of a model's chain, where the page has it."""
    return chain_anchor(model) if reports.lineage and model in reports.lineage.models else ""


def _chain(trace: Trace, report: LineageReport, boards: Mapping[str, str]) -> Chain:
    """The artifacts upstream by the groups of their assets."""
    links: dict[str, list[Link]] = {group: [] for group in GROUPS}
    for name, version in (trace.artifacts | trace.upstream).items():
        edges = [edge for edge in trace.made_from if edge.input == name]
        kinds = ", ".join(dict.fromkeys(KINDS[edge.kind].upstream for edge in edges))
        board = _board_in(name, {edge.file for edge in edges}, report, boards)
        link = Link(name, version, trace.notes.get(name, ""), kinds, board)
        links.setdefault(name.partition("/")[0], []).append(link)
    for name, version in trace.outdated.items():
        links.setdefault(name.partition("/")[0], []).append(Link(name, version[:16], OUTDATED))
    return {group: members for group, members in links.items() if members}


def _board_in(name: str, files: Collection[str], report: LineageReport, boards: Mapping[str, str]) -> str:
    """The anchor of the first storyboard of an example in an artifact, or in a partition of an asset, and in these
    files where some are named."""
    for trace in (*report.rows, *report.items):
        tables = (table for table in trace.tables if "" in files or table.file in files or not files)
        if trace.id in boards and any(name in (table.artifact, asset_of(table.artifact)) for table in tables):
            return boards[trace.id]
    return ""


def _commands(chains: Mapping[str, Chain]) -> Table:
    """Each artifact of the chains once."""
    links = [link for chain in chains.values() for members in chain.values() for link in members]
    rows = []
    for link in {(link.artifact, link.version): link for link in links}.values():
        follow = Cell(command(link.version), code=True) if link.version and link.note != OUTDATED else DASH
        rows.append(row(link.artifact, link.version or DASH, link.note or DASH, follow))
    head = ["artifact", "version", "what it holds", "command"]
    return Table(head, rows, "The artifacts of the chains", True, words=True)


def _examples(traces: Sequence[Trace], caption: str, boards: Mapping[str, str]) -> Table:
    rows = []
    for trace in traces:
        note = f"follow it with: {command(trace.id)}"
        rows.append(row(Cell(trace.id, note, link=boards.get(trace.id, ""))))
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
