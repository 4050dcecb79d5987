"""Schemas in words: what the columns of a table may hold."""

import importlib
from typing import Any

import dataframely as dy

_BOUNDS = (("min", "≥ {}"), ("max", "≤ {}"), ("min_length", "length ≥ {}"), ("max_length", "length ≤ {}"),
           ("regex", "`{}`"), ("is_in", "one of {}"))  # fmt: skip


def schema_of(name: str) -> Any:
    """The schema `module:Name`: a dataframely schema, or a plain polars schema (a dict)."""
    module, attribute = name.split(":")
    return getattr(importlib.import_module(module), attribute)


def columns_of_schema(name: str) -> dict[str, dy.Column]:
    """The columns of the schema `module:Name`; of a plain polars schema there is nothing to say."""
    schema = schema_of(name) if name else {}
    return {} if isinstance(schema, dict) else {column.name: column for column in schema.columns().values()}


def holds(column: dy.Column) -> list[str]:
    """What a value may be, in words, but for null."""
    said = ["key"] if column.primary_key else []
    said += [
        template.format(getattr(column, name)) for name, template in _BOUNDS if getattr(column, name, None) is not None
    ]
    if isinstance(column, dy.List) and (inner := holds_or_null(column.inner)):
        said.append(f"each {inner}")
    return said + (["checked in code"] if column.check is not None else [])


def holds_or_null(column: dy.Column) -> str:
    """The same in a line, and whether null is allowed."""
    return ", ".join([*holds(column), *(["null allowed"] if column.nullable else [])])
