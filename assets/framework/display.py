"""How Dagster's pages show results: numbers rounded, scores with their interval and n, and tables in place of JSON."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import dagster as dg

from evaluation.reports.parts import DASH, mean, percent

MAX_LINE = 80
"""The most characters of a mapping or a list that is shown as text on one line."""
MAX_ROWS = 50
"""The most rows of a table; every result keeps its tables in the event log."""
DIGITS = 4
"""The significant digits of a number below 1,000; larger ones are whole."""
NAME = "name"
"""The column of a row's name."""


def displayed(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as Dagster's pages show it best: mappings and lists of any size become a line of text, or a table."""
    return {name: _value(value) for name, value in metadata.items()}


def line(value: Any) -> str:
    """A value on one line: names with their values, numbers rounded, a score with its interval and n."""
    if _is_score(value):
        cell = percent(value) if "accuracy" in value else mean(value)
        return f"{cell.value} ({cell.note})"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {line(one)}" for name, one in value.items()) or DASH
    if isinstance(value, list):
        return ", ".join(map(line, value)) or DASH
    return DASH if value is None else str(_rounded(value))


def table(rows: Sequence[Mapping[str, Any]]) -> dg.MetadataValue[Any]:
    """Rows with their columns in order of appearance; those after MAX_ROWS are counted."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    more = [{columns[0]: f"and {len(rows) - MAX_ROWS:,} more"}] if len(rows) > MAX_ROWS else []
    records = [dg.TableRecord({name: _cell(row.get(name)) for name in columns}) for row in [*rows[:MAX_ROWS], *more]]
    return dg.MetadataValue.table(records, dg.TableSchema([dg.TableColumn(name) for name in columns]))


def _value(value: Any) -> Any:
    if not isinstance(value, (Mapping, list)):
        return _cell(value)
    parts, text = list(value.values() if isinstance(value, Mapping) else value), line(value)
    nested = any(isinstance(part, Mapping) and not _is_score(part) for part in parts)
    if _is_score(value) or (len(text) <= MAX_LINE and not nested):
        return text
    if isinstance(value, Mapping):
        return table(_rows(value))
    return table([part if isinstance(part, Mapping) else {NAME: part} for part in parts])


def _rows(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each name, with the values of its mapping as columns; or the other way round where that is longer."""
    groups = {
        name: {"value": one} if not isinstance(one, Mapping) or _is_score(one) else one for name, one in values.items()
    }
    columns = dict.fromkeys(column for group in groups.values() for column in group)
    if len(columns) <= len(groups):
        return [{NAME: name, **group} for name, group in groups.items()]
    return [{NAME: column, **{name: group.get(column) for name, group in groups.items()}} for column in columns]


def _is_score(value: Any) -> bool:
    """Whether it is a proportion or a mean of evaluation.statistics."""
    return isinstance(value, Mapping) and {"interval", "n"} <= set(value) and ("accuracy" in value or "mean" in value)


def _cell(value: Any) -> Any:
    """A number as it is, a text, a value of Dagster's or a path, too; the rest on one line."""
    return line(value) if value is None or isinstance(value, (Mapping, list)) else _rounded(value)


def _rounded(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    if not isfinite(value):
        return str(value)  # a table's rows are JSON to the browser, which has no NaN
    return float(f"{value:.{DIGITS}g}") if abs(value) < 1000 else round(value)
