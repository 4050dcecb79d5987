"""`future-l1 lineage ID`: where something came from, and what became of it."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from assets.framework.store import AssetStore
from assets.lineage import KEYS, Found, Lineage, Trace
from evaluation.reports.sections.parts import shortened
from pipelines.cli.common import CONSOLE, current_profile
from pipelines.profile import Profile
from training.runtime.printable import printable

ROWS_SHOWN = 6
LONGEST = 120


def _show(profile: Profile, asked: str, as_json: bool, console: Console) -> None:
    """Prints what the current artifacts of the profile's home know of an id."""
    store = AssetStore(profile.home)
    lineage = Lineage(store.everything())
    try:
        trace = lineage.trace(asked)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    finally:
        for damage in (*store.damaged().values(), *lineage.damaged.values()):
            click.echo(f"! {printable(damage)}", err=True)
    if as_json:
        click.echo(json.dumps(asdict(trace), indent=1, default=str))
    else:
        console.print(_tree(trace))


def _tree(trace: Trace) -> Tree:
    tree = Tree(f"[bold]{escape(trace.id)}[/]")
    for name, version in trace.artifacts.items():
        tree.add(f"is {_named(name, version)}")
    for one in trace.found:
        revision = f", revision {escape(_short(one.revision))}" if one.revision else ""
        _add_rows(tree.add(f"in {_named(one.artifact, one.version)} {escape(one.file)}{revision}"), one)
    for title, names in (
        ("made from", trace.made_from),
        ("trained on it", trace.trained),
        ("reported", trace.reported),
    ):
        _add_names(tree, title, names)
    return tree


def _add_rows(branch: Tree, found: Found) -> None:
    for row in found.rows[:ROWS_SHOWN]:
        told = [f"{name} {_short(value)}" for name, value in row.items() if value is not None and name not in KEYS]
        branch.add(escape(", ".join(told) or _short(next(iter(row.values())))))
    if len(found.rows) > ROWS_SHOWN:
        branch.add(f"[dim]and {len(found.rows) - ROWS_SHOWN} more rows[/]")


def _add_names(tree: Tree, title: str, names: Mapping[str, str]) -> None:
    if names:
        branch = tree.add(f"[bold]{title}[/]")
        for name, version in names.items():
            branch.add(_named(name, version))


def _named(name: str, version: str) -> str:
    return f"{escape(name)} [dim]{version}[/]"


def _short(value: Any) -> str:
    """A value on one line, without what a terminal would obey: it comes from datasets and models."""
    return shortened(printable(value), LONGEST)


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})  # ids begin with -
@click.argument("id_", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def lineage(id_: str, as_json: bool) -> None:
    """Follow an id both ways: a row's, an item's, a clip's name, an artifact's name or version.

    Back to shard, revision and clip, and on to the checkpoints that were trained on it and the reports made of them.
    """
    _show(current_profile(), id_, as_json, CONSOLE)
