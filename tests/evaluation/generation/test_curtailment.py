"""Curtailment keeps exactly the rows of the full procedure, for fewer answers."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.generation.curtailment import (
    CONDITIONS,
    EVEN_ODDS,
    MIN_ROWS,
    ExpectedRates,
    GainRule,
    VerdictCounts,
    next_samples,
    settled_against,
)

STREAM = st.lists(st.booleans(), min_size=8, max_size=8)


def play(
    rule: GainRule,
    streams: dict[str, list[bool | None]],
    in_full: bool = False,
    expected: ExpectedRates = EVEN_ODDS,
) -> dict[str, VerdictCounts]:
    """Generates a row's answers, taken from its two streams (None: unjudged), until none is missing."""
    counts = {condition: VerdictCounts() for condition in CONDITIONS}
    for _ in range(2 * rule.samples + 1):
        more = next_samples(rule, counts["plain"], counts["hint"], in_full, expected)
        if not any(more.values()):
            return counts
        for condition, count in more.items():
            row_counts = counts[condition]
            for verdict in streams[condition][row_counts.generated : row_counts.generated + count]:
                row_counts.correct += verdict is True
                row_counts.incorrect += verdict is False
            row_counts.generated += count
    raise AssertionError("it went on asking")


SHARE = st.floats(0.01, 0.99)


@given(STREAM, STREAM, st.integers(1, 8), st.integers(0, 8), st.integers(-2, 8), st.builds(ExpectedRates, SHARE, SHARE))
def test_the_kept_rows_and_their_gains_are_those_of_the_full_procedure(
    plain: list[bool], hint: list[bool], portion: int, max_p_t: int, min_gain: int, expected: ExpectedRates
) -> None:
    rule = GainRule(samples_per_round=portion, max_p_t=max_p_t, min_gain=min_gain)
    counts = play(rule, {"plain": plain, "hint": hint}, expected=expected)
    p_t, p_v = sum(plain), sum(hint)
    if p_t <= max_p_t and p_v - p_t >= min_gain:
        assert (counts["plain"], counts["hint"]) == (VerdictCounts(8, p_t, 8 - p_t), VerdictCounts(8, p_v, 8 - p_v))
    else:
        complete = all(row_counts.generated == 8 for row_counts in counts.values())
        assert complete or settled_against(rule, counts["plain"], counts["hint"])


@given(STREAM, STREAM, st.integers(1, 8))
def test_no_answer_is_generated_after_the_row_is_settled(plain: list[bool], hint: list[bool], portion: int) -> None:
    """A portion is never larger than what could settle the row, so every answer but the last portion was needed."""
    rule = GainRule(samples_per_round=portion)
    counts = {condition: VerdictCounts() for condition in CONDITIONS}
    streams = {"plain": plain, "hint": hint}
    while any((more := next_samples(rule, counts["plain"], counts["hint"], False)).values()):
        assert not settled_against(rule, counts["plain"], counts["hint"])
        for condition, count in more.items():
            row_counts = counts[condition]
            verdicts = streams[condition][row_counts.generated : row_counts.generated + count]
            row_counts.generated, row_counts.correct, row_counts.incorrect = (
                row_counts.generated + count,
                row_counts.correct + sum(verdicts),
                row_counts.incorrect + count - sum(verdicts),
            )


def test_a_saturated_row_is_settled_by_seven_plain_answers() -> None:
    counts = play(GainRule(), {"plain": [True] * 8, "hint": [True] * 8})
    assert (counts["plain"].generated, counts["hint"].generated) == (7, 0)


@pytest.mark.parametrize(("portion", "plain"), [(1, 1), (2, 2), (4, 4)])
def test_a_hopeless_row_is_settled_by_seven_hinted_answers_after_one_look_without_the_hint(
    portion: int, plain: int
) -> None:
    counts = play(GainRule(samples_per_round=portion), {"plain": [False] * 8, "hint": [False] * 8})
    assert (counts["plain"].generated, counts["hint"].generated) == (plain, 7)


def test_a_fully_sampled_row_is_answered_in_full() -> None:
    counts = play(GainRule(), {"plain": [True] * 8, "hint": [True] * 8}, in_full=True)
    assert (counts["plain"].generated, counts["hint"].generated) == (8, 8)


def test_unjudged_answers_settle_nothing() -> None:
    counts = play(GainRule(), {"plain": [True] * 6 + [None] * 2, "hint": [None] * 8})
    assert (counts["plain"].generated, counts["hint"].generated) == (8, 8)
    assert not settled_against(GainRule(), counts["plain"], counts["hint"])


def test_the_audit_sample_is_a_share_of_the_rows_and_the_same_each_time() -> None:
    rows = [f"{number:016x}" for number in range(20_000)]
    sampled = [row for row in rows if GainRule(full_sampling_fraction=0.1).fully_sampled(row)]
    assert 1_850 < len(sampled) < 2_150
    assert {row for row in rows if GainRule(full_sampling_fraction=0.05).fully_sampled(row)} < set(sampled)
    assert all(GainRule(full_sampling_fraction=1.0).fully_sampled(row) for row in rows)
    assert not any(GainRule(full_sampling_fraction=0.0).fully_sampled(row) for row in rows)


def test_every_outcome_of_a_small_rule_is_decided() -> None:
    rule = GainRule(samples=3, max_p_t=1, min_gain=1, samples_per_round=2)
    for plain, hint in product(product((True, False), repeat=3), repeat=2):
        play(rule, {"plain": list(plain), "hint": list(hint)})


def test_a_rule_that_keeps_nothing_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no row can gain 9"):
        GainRule(min_gain=9)


def test_where_rows_are_mostly_hopeless_the_hint_is_tried_first() -> None:
    fully_sampled = [(VerdictCounts(8, 0, 8), VerdictCounts(8, 0, 8))] * MIN_ROWS
    hopeless = {"plain": [False] * 8, "hint": [False] * 8}
    counts = play(GainRule(), hopeless, expected=ExpectedRates.of(fully_sampled))
    assert (counts["plain"].generated, counts["hint"].generated) == (0, 7)
    assert ExpectedRates.of(fully_sampled[1:]) == EVEN_ODDS


def test_what_is_expected_comes_from_settled_verdicts() -> None:
    rows = [(VerdictCounts(8, 6, 0), VerdictCounts(8, 8, 0))] * 8
    rows += [(VerdictCounts(8, 0, 2), VerdictCounts(8, 0, 8))] * 8
    assert ExpectedRates.of(rows) == ExpectedRates((48 + 1) / (64 + 2), (64 + 1) / (128 + 2))
