"""Which of our rows are compared with which, and what several tests together say."""

import polars as pl
import pytest
from pydantic import ValidationError

from evaluation.reports.run_reports import RunReports, holm, paired_rows


def test_a_model_is_compared_with_its_start_and_with_those_of_the_same_start() -> None:
    names = ("base", "sft", "grpo", "dapo", "other")
    graded = {name: pl.DataFrame({"id": ["1"], "correct": [True]}) for name in names}
    rows = paired_rows(graded, {"grpo": "sft", "dapo": "sft", "other": "base", "sft": "elsewhere"})
    assert [(row["before"], row["after"]) for row in rows] == [
        ("base", "sft"), ("sft", "grpo"), ("sft", "dapo"), ("base", "other"), ("grpo", "dapo"),
    ]  # fmt: skip


def test_models_are_compared_on_the_items_of_both() -> None:
    before = pl.DataFrame({"id": ["1", "2", "3"], "correct": [False, False, True]})
    after = pl.DataFrame({"id": ["2", "1"], "correct": [True, True]})
    (row,) = paired_rows({"sft": before, "rl": after}, {})
    assert (row["before"], row["after"], row["n"], row["only_b"], row["difference"]) == ("sft", "rl", 2, 2, 1.0)


def test_models_without_a_common_item_are_not_compared() -> None:
    graded = {name: pl.DataFrame({"id": [name], "correct": [True]}) for name in ("sft", "rl")}
    assert paired_rows(graded, {}) == []


def test_holm_steps_down_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.5]) == [1.0, 1.0] and holm([]) == []


def test_a_report_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValidationError, match="imaginaton"):
        RunReports(curation={}, futurebench={}, imaginaton={})  # type: ignore[call-arg]
