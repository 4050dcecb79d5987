"""Results on Dagster's pages: rounded, scores with interval and n, tables in place of JSON."""

from typing import Any

import dagster as dg
import pytest

from assets.framework.display import MAX_ROWS, displayed, line

PROPORTION = {"accuracy": 0.78251234, "correct": 626, "n": 800, "interval": [0.7525, 0.8097]}
MEAN = {"mean": 3.216, "n": 12, "interval": [3.0, 3.4]}


def display_of(value: Any) -> Any:
    """The text, the number, or the rows of the table that a value becomes."""
    result = displayed({"value": value})["value"]
    if isinstance(result, dg.TableMetadataValue):
        return [dict(record.data) for record in result.records]
    return result


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, 0.1235),
        (123456, 123456),
        (12345.678, 12346),
        (float("inf"), "inf"),
        (None, "–"),
        ({}, "–"),
        ([], "–"),
        ({"missing clip": 2, "share": 0.00123456}, "missing clip: 2, share: 0.001235"),
        (["a", "b"], "a, b"),
        (PROPORTION, "78.3 % (75.2–81.0, n = 800)"),
        (MEAN, "3.22 (3.00–3.40, n = 12)"),
        ({"accuracy": None, "n": 0, "interval": None}, "– (n = 0)"),
        (dg.MetadataValue.url("/a"), dg.MetadataValue.url("/a")),
    ],
)
def test_what_fits_on_a_line_is_a_line(value: Any, text: Any) -> None:
    assert display_of(value) == text


def test_longer_mappings_are_tables() -> None:
    assert display_of({f"name {n}": n / 3 for n in range(9)})[1] == {"name": "name 1", "value": 0.3333}
    splits = {f"hop{n}": PROPORTION for n in (1, 2, 3)}
    assert display_of({f"metric {n} of a long name": float("nan") for n in range(9)})[0]["value"] == "nan"
    assert display_of(splits)[0] == {"name": "hop1", "value": "78.3 % (75.2–81.0, n = 800)"}


def test_mappings_of_mappings_are_tables_with_the_longer_side_down() -> None:
    by_model = {name: {"judged": 3, "answered": 4} for name in ("a model of a long name", "another of them", "sft")}
    assert display_of(by_model)[0] == {"name": "a model of a long name", "judged": 3, "answered": 4}
    metrics = {"text_only": {f"metric {n}": float(n) for n in range(9)}, "future_l1": {"metric 0": 0.5}}
    assert display_of(metrics)[:2] == [
        {"name": "metric 0", "text_only": 0.0, "future_l1": 0.5},
        {"name": "metric 1", "text_only": 1.0, "future_l1": "–"},
    ]


def test_lists_of_records_are_tables_and_long_ones_end() -> None:
    rows = display_of([{"row_id": f"row {n}", "reasons": ["a", "b"]} for n in range(MAX_ROWS + 3)])
    assert rows[0] == {"row_id": "row 0", "reasons": "a, b"}
    assert len(rows) == MAX_ROWS + 1 and rows[-1] == {"row_id": "and 3 more", "reasons": "–"}


def test_a_line_of_nested_values() -> None:
    assert line({"sft": {"gone": 2}, "rl": [1, 2]}) == "sft: gone: 2, rl: 1, 2"
