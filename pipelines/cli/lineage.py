"""`future-l1 lineage ID`: upstream and downstream of a row, an item, a clip, an asset or an artifact."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import click

from assets.framework.store import AssetStore
from assets.lineage.report import trace_storyboard
from assets.lineage.trace import KEYS, Lineage
from evaluation.reports.edges import EXCLUDED, KINDS, asset_of
from evaluation.reports.lineage import in_a_line
from evaluation.reports.parts import shortened
from evaluation.reports.run_reports import Edge, TableRows, Trace, TrainingSet, command
from pipelines.cli.common import NEW_FILE, current_profile, make_room
from pipelines.heartbeat import set_activity
from training.runtime.printable import printable

MAX_ROWS, MAX_LENGTH, MAX_NAMES = 6, 120, 60
"""Rows of a table, characters of a value, and of the names of partitions that share a line."""
PATHS = ("path",)
"""Columns that are printed in full, for whoever opens the file."""


class IdCommand(click.Command):
    """A command whose argument may begin with a dash, as the names of clips do: only -h and --help are no ids."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = args[: args.index("--")] if "--" in args else args
        return super().parse_args(ctx, ["--help"] if "-h" in options else args)


@click.command(cls=IdCommand, context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})
@click.argument("id_", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--out", type=NEW_FILE, metavar="FILE", help="Draw the row's, the clip's or the item's storyboard (PNG).")
def lineage(id_: str, as_json: bool, out: Path | None) -> None:
    """Follow an id both ways: an asset, a model or a shard, an artifact, a row, an item, or a clip's name.

    Back to the rows, shards, clips and key frames behind it, and on to the models that were trained on it and the
    reports in which it counts. Of an artifact, the first level of a tree is what it was made from directly.

    \b
    Example:
      future-l1 lineage benchmarks/futurebench_report/la_dapo
    """
    artifacts, errors = AssetStore(current_profile().home).read_all()
    current = Lineage(artifacts)
    make_room(out)
    set_activity(f"looking for it in {len(artifacts):,} artifacts")
    try:
        trace = current.trace(id_)
        picture = trace_storyboard(current, trace) if out else None
    finally:
        for damage in (*errors.values(), *current.damaged.values()):
            click.echo(f"! {printable(damage)}", err=True)
    if as_json:
        click.echo(json.dumps(trace.model_dump(mode="json"), indent=1))
    else:
        for depth, line in _lines(trace, current):
            click.echo("  " * depth + printable(line))  # what a terminal would obey comes from datasets and models
    if out and picture is None:
        raise ValueError(f"there is no storyboard of {id_!r}: only of a scored row, of a clip that has some, and of a "
                         "FutureBench item with answers")  # fmt: skip
    if out and picture:
        out.write_bytes(picture)
        click.echo(f"storyboard: {out}", err=True)


Lines = Iterator[tuple[int, str]]
"""Lines of text with their depths."""


def _lines(trace: Trace, current: Lineage) -> Lines:
    partitions: defaultdict[str, list[str]] = defaultdict(list)
    for name in trace.artifacts:
        partitions[asset_of(name)].append(name)
    for asset, members in partitions.items():
        if len(members) > MAX_ROWS:
            yield 0, _several(asset, members)
            continue
        for name in members:
            yield 0, _named(trace, name)
            yield 1, f"in {current.artifacts[name].path}"
    if not trace.artifacts:
        yield 0, trace.id
    for table in trace.tables:
        yield from _table(table)
    if trace.made_from:
        yield 0, "made from, directly at the first level"
        yield from _tree(trace, trace.made_from, "input")
    if trace.outdated:
        yield 0, "made from, not current any more"
        yield from ((1, f"{name} {version}") for name, version in trace.outdated.items())
    if trace.training_sets:
        yield 0, "rows behind it"
        for one in trace.training_sets:
            yield from _training_set(one)
    if trace.used_by and not trace.tables:
        yield 0, "used by"
        yield from _tree(trace, trace.used_by, "artifact")
    for title, names in (("models trained on it", trace.checkpoints), ("counts in", trace.reports)):
        if names:
            yield 0, title
            yield from ((1, _named(trace, name)) for name in names)


def _tree(trace: Trace, edges: Sequence[Edge], far: Literal["input", "artifact"]) -> Lines:
    """Edges as a tree that begins with the direct ones; partitions, and files from elsewhere, share a line.

    What was printed before has neither its note nor its branches again.
    """
    following: defaultdict[str, list[Edge]] = defaultdict(list)
    for edge in edges:
        following[edge.artifact if far == "input" else edge.input].append(edge)
    expanded: set[str] = set()

    def branches(level: list[Edge], depth: int) -> Lines:
        groups: defaultdict[tuple[str, str, str], list[str]] = defaultdict(list)
        for edge in level:
            name = getattr(edge, far)
            groups[edge.kind, asset_of(name) if "/" in name else "files", edge.file].append(name)
        for (kind, asset, file), repeated in groups.items():
            names = list(dict.fromkeys(repeated))
            fresh = [name for name in names if name not in expanded]
            words = getattr(KINDS[kind], "upstream" if far == "input" else "downstream")
            if len(names) > 1:
                one = _several(asset, names)
            else:
                one = _named(trace, names[0], with_note=bool(fresh) and not file and kind != EXCLUDED)
            yield depth, f"{words} {one}" + (f", {file}" if file else "")
            if kind != EXCLUDED:
                expanded.update(fresh)
                yield from branches([edge for name in fresh for edge in following[name]], depth + 1)

    yield from branches([edge for edge in edges if edge.direct], 1)


def _several(asset: str, names: Sequence[str]) -> str:
    """Partitions of an asset, or files, on one line."""
    partitions = [name.removeprefix(f"{asset}/") for name in names]
    text = ", ".join(partitions)
    return f"{asset} ({len(names)}: {text if len(text) <= MAX_NAMES else f'{partitions[0]} … {partitions[-1]}'})"


def _named(trace: Trace, name: str, with_note: bool = True) -> str:
    """A name with its version, and what it holds or reports."""
    folder = f"read from files in {trace.folders[name]}" if name in trace.folders else ""
    notes = (trace.notes.get(name), folder) if with_note else ()
    return ", ".join(filter(None, (f"{name} {trace.versions.get(name, '')}".strip(), *notes)))


def _table(table: TableRows) -> Lines:
    revision = f", revision {shortened(printable(table.revision), MAX_LENGTH)}" if table.revision else ""
    yield 0, f"in {table.artifact} {table.version} {table.file}{revision}"
    for row in table.rows[:MAX_ROWS]:
        values = {name: printable(value) for name, value in row.items() if value is not None}
        yield 1, _values({name: value for name, value in values.items() if name not in KEYS} or values)
    if len(table.rows) > MAX_ROWS:
        yield 1, f"and {len(table.rows) - MAX_ROWS} more rows"


def _values(row: dict[str, Any]) -> str:
    texts = {name: value for name, value in row.items() if name not in PATHS}
    return ", ".join(filter(None, (in_a_line(texts, MAX_LENGTH), *(f"{p} {row[p]}" for p in PATHS if row.get(p)))))


def _training_set(table: TrainingSet) -> Lines:
    yield 1, f"{table.artifact}: {table.rows:,} rows of {table.shards:,} shards and {table.clips:,} clips, {table.path}"
    for row in table.examples:
        yield 2, _values(row)
    if table.examples:
        yield 2, f"and so on; one row: {command(table.examples[0]['row_id'])} --out storyboard.png"
