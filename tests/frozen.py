"""Files that are generated from code: `make regenerate` writes them, and tests compare.

The README's picture of the lineage, the record of the graph (tests/pipelines/graph.json), the tables of
docs/data-contracts.md and docs/operations/profile.md, and the sections of docs/checks.md.
"""

import importlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from assets.framework.metadata import constraints_and_null
from pipelines.alerts import WEBHOOK_VARIABLE
from pipelines.definitions import build_definitions
from pipelines.profile import demo
from tests.pipelines import graph
from tests.profile_fields import fields_table, models_table
from training.runtime.project import PROJECT

README, DOCS = PROJECT / "README.md", PROJECT / "docs"
CONTRACTS, CHECKS, PROFILE = DOCS / "data-contracts.md", DOCS / "checks.md", DOCS / "operations" / "profile.md"

_PICTURE = re.compile(r"(?<=```mermaid\n).*?(?=```)", re.DOTALL)
_SECTIONS = re.compile(r"(<!-- checks -->\n).*?(<!-- end -->)", re.DOTALL)
_TABLE = re.compile(r"(<!-- (?P<name>fields|models) -->\n).*?(<!-- end -->)", re.DOTALL)
_BLOCK = re.compile(r"(<!-- (?P<schema>[\w.]+:\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_picture(page: str) -> str:
    """The page with the demo's lineage as a Mermaid flowchart: partitioned assets are stacks, groups are frames."""
    nodes = build_definitions(demo(Path("/home"))).resolve_asset_graph().asset_nodes
    nodes = sorted(nodes, key=lambda node: node.key.to_user_string())
    lines = ["flowchart LR"]
    for group in dict.fromkeys(str(node.group_name) for node in nodes):
        members = [node for node in nodes if node.group_name == group]
        lines.append(f"  subgraph {group}")
        for node in members:
            left, right = ("[[", "]]") if node.partitions_def else ("[", "]")
            lines.append(f'    {_id(node.key)}{left}"{node.key.to_user_string()}"{right}')
        lines.append("  end")
    lines += [f"  {_id(parent)} --> {_id(node.key)}" for node in nodes for parent in sorted(node.parent_keys)]
    return _PICTURE.sub(lambda _: "\n".join(lines) + "\n", page)


def _id(key: dg.AssetKey) -> str:
    return "_".join(key.path)


def with_schemas(page: str) -> str:
    """The page with every block between `<!-- module:Name -->` and `<!-- end -->` as that schema has it.

    Raises AttributeError for a schema that is no more.
    """
    return _BLOCK.sub(lambda block: f"{block[1]}\n{_table(block['schema'])}\n\n{block[3]}", page)


def with_checks(page: str) -> str:
    """The page with a section for each check of the demo: its assets, whether it blocks, and its description."""
    checks: dict[str, list[Any]] = {}
    for node in build_definitions(demo(Path("/home"))).resolve_asset_graph().asset_check_nodes:
        checks.setdefault(node.key.name, []).append(node)
    lines: list[str] = []
    for name, nodes in sorted(checks.items()):
        assets = ", ".join(f"`{key}`" for key in sorted(node.key.asset_key.to_user_string() for node in nodes))
        kind = "blocks what follows" if nodes[0].blocking else "blocks nothing"
        lines += [f"### {name}", f"{assets}; {kind}.", "", str(nodes[0].description), ""]
    text = "\n".join(lines)
    return _SECTIONS.sub(lambda block: f"{block[1]}\n{text}\n{block[2]}", page)


def with_profile_tables(page: str) -> str:
    """The page with the tables between `<!-- fields -->` or `<!-- models -->` and `<!-- end -->`."""
    tables = {"fields": fields_table, "models": models_table}
    return _TABLE.sub(lambda block: f"{block[1]}\n{_lines(tables[block['name']]())}\n\n{block[3]}", page)


def schemas_on(page: str) -> set[str]:
    """The schemas that the page shows, as `module:Name`."""
    return {block["schema"] for block in _BLOCK.finditer(page)}


def _table(name: str) -> str:
    """A schema's columns, then its rules; of a plain polars schema (a dict) names and types only."""
    module, attribute = name.split(":")
    schema = getattr(importlib.import_module(module), attribute)
    if isinstance(schema, dict):
        head, rules = ["column", "type"], []
        rows = [[f"`{column}`", str(dtype)] for column, dtype in schema.items()]
    else:
        head, rules = ["column", "type", "constraints", "description"], schema._schema_validation_rules()
        rows = [
            [f"`{column.name}`", str(column.dtype), constraints_and_null(column), str(column.description)]
            for column in schema.columns().values()
        ]
    return "\n".join([_lines([head, *rows]), *(["", *(f"- {rule.replace('_', ' ')}" for rule in rules)] if rules else
    [])])


def _lines(table: Sequence[Sequence[str]]) -> str:
    """A Markdown table, of its head and its rows."""
    head, *rows = table
    return "\n".join([_row(head), "|" + "---|" * len(head), *map(_row, rows)])


def _row(cells: Sequence[str]) -> str:
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


FROZEN: dict[Path, Callable[[str], str]] = {
    README: with_picture,
    CONTRACTS: with_schemas,
    CHECKS: with_checks,
    PROFILE: with_profile_tables,
    graph.RECORDED: lambda _: graph.as_text(),
}
"""The files, and what makes the new text from the old."""

if __name__ == "__main__":
    os.environ.pop(WEBHOOK_VARIABLE, None)  # or there would be a sensor more
    for path, fresh in FROZEN.items():
        path.write_text(fresh(path.read_text(encoding="utf-8")), encoding="utf-8")
