"""Writes the tables of docs/data-contracts.md from the schemas: `python -m assets.contracts`.

The page is prose with blocks; a block between `<!-- module:Name -->` and `<!-- end -->` is what the code says, and
only blocks are rewritten.  A test holds the page to the code.
"""

import importlib
import re
from typing import Any

import dataframely as dy

from assets.store import PROJECT

PAGE = PROJECT / "docs" / "data-contracts.md"

_BLOCK = re.compile(r"(<!-- (?P<module>[\w.]+):(?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_BOUNDS = (("min", "≥ {}"), ("max", "≤ {}"), ("min_length", "length ≥ {}"), ("max_length", "length ≤ {}"),
           ("regex", "`{}`"), ("is_in", "one of {}"))  # fmt: skip


def filled(page: str) -> str:
    """The page with every block as the code has it.  Raises AttributeError for a schema that is no more."""
    return _BLOCK.sub(lambda block: f"{block[1]}\n{_table(_named(block['module'], block['name']))}\n\n{block[4]}", page)


def named(page: str) -> set[str]:
    """The schemas that the page shows, as `module:Name`."""
    return {f"{block['module']}:{block['name']}" for block in _BLOCK.finditer(page)}


def _named(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _table(schema: Any) -> str:
    """A schema's columns, then its rules; a plain polars schema (a dict) has names and types only."""
    if isinstance(schema, dict):
        return "\n".join(
            ["| column | type |", "|---|---|", *(f"| `{n}` | {_text(str(t))} |" for n, t in schema.items())]
        )
    lines = ["| column | type | holds |", "|---|---|---|"]
    lines += [f"| `{c.name}` | {_text(str(c.dtype))} | {_text(_and_null(c))} |" for c in schema.columns().values()]
    rules = [name.replace("_", " ") for name in schema._schema_validation_rules()]
    return "\n".join(lines + (["", *(f"- {rule}" for rule in rules)] if rules else []))


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
