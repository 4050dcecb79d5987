"""Writes the tables of docs/data-contracts.md from the schemas: `python -m assets.contracts`.

The page is prose with blocks; a block between `<!-- module:Name -->` and `<!-- end -->` is what the code says, and
only blocks are rewritten.  A test holds the page to the code.
"""

import importlib
import re
from collections.abc import Sequence
from typing import Any

import dataframely as dy

from training.project import PROJECT

PAGE = PROJECT / "docs" / "data-contracts.md"

_BLOCK = re.compile(r"(<!-- (?P<module>[\w.]+):(?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_BOUNDS = (("min", "≥ {}"), ("max", "≤ {}"), ("min_length", "length ≥ {}"), ("max_length", "length ≤ {}"),
           ("regex", "`{}`"), ("is_in", "one of {}"))  # fmt: skip


def filled(page: str) -> str:
    """The page with every block as the code has it.  Raises AttributeError for a schema that is no more."""
    return _BLOCK.sub(lambda block: f"{block[1]}\n{_block(block['module'], block['name'])}\n\n{block[4]}", page)


def named(page: str) -> set[str]:
    """The schemas that the page shows, as `module:Name`."""
    return {f"{block['module']}:{block['name']}" for block in _BLOCK.finditer(page)}


def _named(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _block(module: str, name: str) -> str:
    """A schema's columns, then its rules; of a plain polars schema (a dict) names and types only."""
    schema, says = _named(module, name), _told(f"{module}:{name}")
    if isinstance(schema, dict):
        head, rules = ["column", "type"], []
        rows = {column: [str(dtype)] for column, dtype in schema.items()}
    else:
        head, rules = ["column", "type", "holds"], schema._schema_validation_rules()
        rows = {column.name: [str(column.dtype), _and_null(column)] for column in schema.columns().values()}
    if says:
        head, rows = [*head, "what it is"], {column: [*cells, says[column]] for column, cells in rows.items()}
    lines = [_row(head), "|" + "---|" * len(head), *(_row([f"`{column}`", *cells]) for column, cells in rows.items())]
    return "\n".join(lines + (["", *(f"- {rule.replace('_', ' ')}" for rule in rules)] if rules else []))


def _told(schema: str) -> dict[str, str]:
    """What the columns of a schema are, where it is a main table's; else nothing."""
    from assets.columns import ROWS, TABLES  # which reads schemas by this module

    used = next((table for table in TABLES.values() if table.schema == schema), None)
    table = TABLES[ROWS] if schema == "training.data.trajectory:TrajectoryTable" else used
    return {name: table.says(name) for name in table.names()} if table else {}


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_text, cells))} |"


def columns_of_schema(name: str) -> dict[str, dy.Column]:
    """The columns of the schema `module:Name`; of a plain polars schema there is nothing to say."""
    schema = _named(*name.split(":")) if name else {}
    return {} if isinstance(schema, dict) else {column.name: column for column in schema.columns().values()}


def holds(column: dy.Column) -> list[str]:
    """What a value may be, in words, but for null."""
    said = ["key"] if column.primary_key else []
    said += [
        template.format(getattr(column, name)) for name, template in _BOUNDS if getattr(column, name, None) is not None
    ]
    if isinstance(column, dy.List) and (inner := _and_null(column.inner)):
        said.append(f"each {inner}")
    return said + (["checked in code"] if column.check is not None else [])


def _and_null(column: dy.Column) -> str:
    return ", ".join([*holds(column), *(["null allowed"] if column.nullable else [])])


def _text(value: str) -> str:
    """Safe inside a table's cell."""
    return value.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
