"""Cost per answer, by hand."""

import polars as pl
import pytest

from evaluation.benchmarks.cost import cost, latency
from tests.evaluation.answers import answer_table


def test_cost_is_means_by_kind_and_what_a_device_gets_through() -> None:
    """Two answers of 5 text tokens; one has two spans of 4 latents and their 4 markers.  0.03 s each."""
    costs = cost(answer_table({"a": "x", "b": "y"}, {"b": 2}), accuracy=0.5)
    kinds = ("text_tokens", "latent_tokens", "control_tokens", "tokens")
    assert [costs[kind] for kind in kinds] == [5.0, 4.0, 3.0, 12.0]
    assert (costs["n"], costs["cut_short"], costs["prompt_tokens"]) == (2, 0, None)
    assert costs["seconds"] == pytest.approx(0.03)
    assert costs["answers_per_second"] == pytest.approx(1 / 0.03)
    assert costs["tokens_per_second"] == pytest.approx(24 / 0.06)
    assert costs["accuracy_per_second"] == pytest.approx(50 / 0.03)


def test_the_published_accuracy_per_second_is_percent_over_seconds() -> None:
    """Table 7 of the paper: 73.1 % in 0.96 s."""
    row = answer_table({"a": "x"}).with_columns(prefill_seconds=pl.lit(0.06), decode_seconds=pl.lit(0.9))
    assert cost(row, accuracy=0.731)["accuracy_per_second"] == pytest.approx(76.1, abs=0.05)
    assert latency(row, accuracy=0.731)["accuracy_per_second"] == pytest.approx(76.1, abs=0.05)


def test_prompt_tokens_count_where_there_are_some() -> None:
    rows = answer_table({"a": "x", "b": "y"}).with_columns(prompt_tokens=pl.Series([70, 90]))
    assert cost(rows)["prompt_tokens"] == 80.0


def test_no_answer_has_no_known_cost() -> None:
    costs = cost(answer_table({}), accuracy=None)
    assert costs["n"] == 0
    assert {value for name, value in costs.items() if name not in ("n", "cut_short")} == {None}
    assert latency(answer_table({}))["seconds"] == {"mean": None, "n": 0, "interval": None}
