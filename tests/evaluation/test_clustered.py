"""Intervals over clusters: many values of one cluster say no more than the cluster."""

import numpy as np
import pytest

from evaluation.statistics import bootstrap_mean, clustered_mean, clustered_proportion, wilson

COIN = [0.0, 1.0] * 20


def test_values_that_are_clusters_of_their_own_have_the_plain_interval() -> None:
    result, plain = clustered_mean(COIN, range(40)), bootstrap_mean(COIN)
    assert (result.mean, result.n) == (plain.mean, plain.n) == (0.5, 40)
    assert result.interval is not None and plain.interval is not None
    np.testing.assert_allclose(result.interval, plain.interval, atol=0.03)


def test_repeating_every_value_in_its_cluster_changes_nothing_but_the_count() -> None:
    once, often = clustered_mean(COIN, range(40)), clustered_mean(np.repeat(COIN, 5), np.repeat(range(40), 5).tolist())
    assert (often.mean, often.interval, often.n) == (once.mean, once.interval, 200)


def test_where_all_or_none_hit_each_cluster_counts_once() -> None:
    result = clustered_proportion([True] * 6, ["a", "a", "a", "b", "b", "c"])
    assert result == {"correct": 6, "n": 6, "accuracy": 1.0, "interval": list(wilson(3, 3) or ())}
    assert clustered_proportion([False] * 4, ["a", "a", "b", "b"])["interval"] == list(wilson(0, 2) or ())
    assert clustered_proportion([True, False], ["a", "a"])["interval"] == list(wilson(0.5, 1) or ())
    assert clustered_proportion([], []) == {"correct": 0, "n": 0, "accuracy": None, "interval": None}


def test_single_values_have_wilsons_interval_and_copies_that_of_their_clusters() -> None:
    hits = [True] * 15 + [False] * 5
    low, high = clustered_proportion(hits, range(20))["interval"]
    np.testing.assert_allclose((low, high), wilson(15, 20) or (), atol=0.01)
    copies = clustered_proportion(np.repeat(hits, 8).tolist(), np.repeat(range(20), 8).tolist())
    np.testing.assert_allclose(copies["interval"], (low, high))
    assert copies["n"] == 160


def test_the_design_effect_by_hand() -> None:
    """Clusters (1, 1), (0, 0), (1, 0): residuals 1, -1, 0 about 1/2, variance 3/2 * 2/36 = 1/12, of values 1/24."""
    result = clustered_proportion([True, True, False, False, True, False], list("aabbcc"))
    np.testing.assert_allclose(result["interval"], wilson(1.5, 3) or ())


def test_a_value_without_cluster_or_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="each with its cluster"):
        clustered_mean([1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match="finite"):
        clustered_mean([float("nan")], ["a"])
