"""Intervals hold what they should: textbook values, bounds, symmetry, coverage of the point estimate."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from evaluation.statistics import (
    Proportion,
    agreement,
    bootstrap_mean,
    mcnemar_exact,
    paired_difference,
    quadratic_kappa,
    wilson,
    wilson_columns,
)


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (51, 80, 0.528, 0.7343)],
)
def test_wilson_equals_published_values(correct: int, n: int, low: float, high: float) -> None:
    assert wilson(correct, n) == pytest.approx((low, high), abs=5e-4)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_the_proportion_and_mirrors(counts: tuple[int, int]) -> None:
    correct, n = counts
    low, high = wilson(correct, n)
    assert 0 <= low <= correct / n + 1e-12 and correct / n - 1e-12 <= high <= 1
    assert wilson(n - correct, n) == pytest.approx((1 - high, 1 - low))
    assert (low, high) == pytest.approx(binomtest(correct, n).proportion_ci(0.95, "wilson"), abs=1e-12)


def test_the_column_form_equals_the_scalar_form() -> None:
    table = pl.DataFrame({"right": [0, 3, 8, 0], "n": [8, 8, 8, 0]}).with_columns(wilson_columns("right", "n", "p"))
    for right, n, low, high in table.iter_rows():
        assert (low, high) == (pytest.approx(wilson(right, n)) if n else (None, None))


def test_nothing_observed_is_no_score_rather_than_zero() -> None:
    assert Proportion(0, 0).as_dict() == {"correct": 0, "n": 0, "accuracy": None, "interval": None}
    assert bootstrap_mean([]).as_dict() == {"mean": None, "n": 0, "interval": None}


def test_more_correct_than_n_is_an_error() -> None:
    with pytest.raises(ValueError, match="9 correct of 8"):
        wilson(9, 8)


def test_the_bootstrap_is_repeatable_and_near_the_normal_interval() -> None:
    values = [0.0, 5.0] * 200
    mean = bootstrap_mean(values)
    assert mean == bootstrap_mean(values)
    assert mean.interval == pytest.approx((2.5 - 0.245, 2.5 + 0.245), abs=0.02)
    assert bootstrap_mean([3.0] * 20).interval == (3.0, 3.0) == bootstrap_mean([3.0]).interval


def test_a_mean_of_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        bootstrap_mean([1.0, float("nan")])


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_a_paired_difference_is_the_difference_of_accuracies_and_antisymmetric(pairs: list[tuple[bool, bool]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert there.difference == pytest.approx((sum(b) - sum(a)) / len(a))
    assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]))
    assert there.p_value == back.p_value and 0 <= there.p_value <= 1


@pytest.mark.parametrize(("only_a", "only_b", "p"), [(0, 0, 1.0), (5, 5, 1.0), (0, 6, 0.03125), (2, 10, 0.03857)])
def test_mcnemar_equals_the_binomial_tail(only_a: int, only_b: int, p: float) -> None:
    assert mcnemar_exact(only_a, only_b) == pytest.approx(p, abs=1e-5)


def test_a_comparison_of_different_items_is_an_error() -> None:
    with pytest.raises(ValueError, match="same items"):
        paired_difference([True], [True, False])


def test_kappa_of_two_marks_is_cohens() -> None:
    """3 of 4 alike where chance gives 2 of 4: (0.75 - 0.5) / (1 - 0.5)."""
    assert quadratic_kappa([0, 0, 1, 1], [0, 1, 1, 1]) == pytest.approx(0.5)


MARKS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=30)


@given(MARKS)
def test_kappa_equals_its_definition_by_the_table_of_marks(pairs: list[tuple[int, int]]) -> None:
    a, b = zip(*pairs, strict=True)
    n, weights = len(pairs), {(i, j): (i - j) ** 2 / 25 for i in range(6) for j in range(6)}
    observed = sum(weights[pair] for pair in pairs) / n
    by_chance = sum(w * a.count(i) / n * b.count(j) / n for (i, j), w in weights.items())
    kappa = quadratic_kappa(a, b)
    if by_chance == 0:
        assert kappa is None
    else:
        assert kappa == pytest.approx(1 - observed / by_chance)
        assert kappa == pytest.approx(quadratic_kappa(b, a))


def test_kappa_needs_marks_that_differ_somewhere() -> None:
    assert quadratic_kappa([], []) is None
    assert quadratic_kappa([4, 4], [4, 4]) is None
    assert quadratic_kappa([4, 4], [5, 5]) == 0.0
    assert quadratic_kappa([0, 5], [5, 0]) == -1.0
    with pytest.raises(ValueError, match="got 1 and 2"):
        quadratic_kappa([1], [1, 2])


def test_agreement_is_the_mean_over_pairs_on_what_both_marked() -> None:
    """Judgements 1 and 2: kappa 0.5 on four items; 1 and 3, 2 and 3: 1.0 on the two items that the third marked."""
    result = agreement([[0, 0, 0], [0, 1, None], [1, 1, 1], [1, 1, None], [3, None, None]])
    assert result == {"kappa": pytest.approx((0.5 + 1.0 + 1.0) / 3), "n": 4}
    assert agreement([[3], [4]]) == agreement([]) == {"kappa": None, "n": 0}
