"""`future-l1 lineage ID`: upstream and downstream of a row, an item, a clip or an artifact."""

import json

import click
from rich.markup import escape
from rich.tree import Tree

from assets.framework.store import AssetStore
from assets.lineage import KEYS, Lineage
from evaluation.reports.lineage import in_a_line
from evaluation.reports.parts import shortened
from evaluation.reports.run_reports import TableRows, Trace
from pipelines.cli.common import CONSOLE, current_profile
from training.runtime.printable import printable

MAX_ROWS, MAX_LENGTH = 6, 120


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})  # ids begin with -
@click.argument("id_", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def lineage(id_: str, as_json: bool) -> None:
    """Follow an id both ways: a row's, an item's, a clip's name, an artifact's name or version.

    Back to shard, revision and clip, and on to the checkpoints that were trained on it and the reports made of them.

    \b
    Example:
      future-l1 lineage train-00001/17 --json
    """
    store = AssetStore(current_profile().home)
    current = Lineage(store.everything())
    try:
        trace = current.trace(id_)
    finally:
        for damage in (*store.damaged().values(), *current.damaged.values()):
            click.echo(f"! {printable(damage)}", err=True)
    if as_json:
        click.echo(json.dumps(trace.model_dump(mode="json"), indent=1))
    else:
        CONSOLE.print(_tree(trace))


def _tree(trace: Trace) -> Tree:
    tree = Tree(f"[bold]{escape(trace.id)}[/]")
    for name, version in trace.artifacts.items():
        tree.add(f"is {_named(name, version)}")
    for table in trace.tables:
        revision = f", revision {escape(shortened(printable(table.revision), MAX_LENGTH))}" if table.revision else ""
        _add_rows(tree.add(f"in {_named(table.artifact, table.version)} {escape(table.file)}{revision}"), table)
    for title, names in (
        ("made from", trace.upstream),
        ("made from, not current any more", trace.outdated),
        ("trained on it", trace.checkpoints),
        ("reported", trace.reports),
    ):
        if names:
            branch = tree.add(f"[bold]{title}[/]")
            for name, version in names.items():
                branch.add(_named(name, version))
    return tree


def _add_rows(branch: Tree, table: TableRows) -> None:
    for row in table.rows[:MAX_ROWS]:
        # What a terminal would obey is left out: it comes from datasets and models.
        values = {name: printable(value) for name, value in row.items() if value is not None}
        others = {name: value for name, value in values.items() if name not in KEYS}
        branch.add(escape(in_a_line(others or values, MAX_LENGTH)))
    if len(table.rows) > MAX_ROWS:
        branch.add(f"[dim]and {len(table.rows) - MAX_ROWS} more rows[/]")


def _named(name: str, version: str) -> str:
    return f"{escape(name)} [dim]{version}[/]"
