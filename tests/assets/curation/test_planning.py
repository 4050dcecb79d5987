"""A plan's answers are those of the real procedure; its arithmetic can be followed; its assumptions are told."""

from itertools import permutations, product
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from assets.curation.planning import PlanAssumptions, estimate
from assets.curation.population import (
    KEPT_BY_GAIN,
    SCORED,
    Kinds,
    Population,
    assumed_population,
    expected_answers,
    population_of,
)
from evaluation.answering.curtailment import CONDITIONS, GainRule, Tally, wanted
from training.data.prompts import ANSWERS

PAPER = GainRule(audit=0.0)


def one_kind(p_t: int, p_v: int, samples: int = 8, observed: int = 0) -> Population:
    counts = np.zeros((samples + 1, samples + 1))
    counts[p_t, p_v] = 1
    return Population(counts, "one kind", observed)


def asked_of(rule: GainRule, streams: dict[str, tuple[bool, ...]]) -> tuple[list[int], int]:
    """Answers by condition, and requests, of a row with these verdicts."""
    tallies = {condition: Tally() for condition in CONDITIONS}
    requests = 0
    while any((more := wanted(rule, tallies["plain"], tallies["hint"], False)).values()):
        for condition, count in more.items():
            tally, told = tallies[condition], streams[condition]
            new = told[tally.answers : tally.answers + count]
            tallies[condition] = Tally(tally.answers + count, tally.right + sum(new), tally.wrong + count - sum(new))
            requests += count > 0
    return [tallies[condition].answers for condition in CONDITIONS], requests


@pytest.mark.parametrize("portion", [1, 2, 3])
def test_the_expected_answers_are_the_mean_over_every_order_of_a_rows_answers(portion: int) -> None:
    rule = GainRule(samples=3, max_p_t=1, min_gain=1, round=portion, audit=0.0)
    expected = expected_answers(rule)
    for p_t, p_v in product(range(4), repeat=2):
        orders = [set(permutations([True] * p + [False] * (3 - p))) for p in (p_t, p_v)]
        played = [asked_of(rule, {"plain": plain, "hint": hint}) for plain, hint in product(*orders)]
        answers = np.mean([counts for counts, _ in played], axis=0)
        assert [expected.answers[c][p_t, p_v] for c in CONDITIONS] == pytest.approx(answers.tolist())
        requests = sum(expected.requests[c][p_t, p_v] for c in CONDITIONS)
        assert requests == pytest.approx(np.mean([count for _, count in played]))


def test_a_saturated_row_costs_seven_answers_and_a_kept_one_all() -> None:
    expected = expected_answers(PAPER)
    assert expected.all_answers[8, 8] == pytest.approx(7)
    for p_t, p_v in ((0, 8), (6, 8), (0, 2)):
        assert expected.all_answers[p_t, p_v] == pytest.approx(16)


def test_the_audit_is_answered_in_full_from_one_request_a_condition() -> None:
    half = expected_answers(GainRule(audit=0.5)).all_answers
    assert half == pytest.approx((16 + expected_answers(PAPER).all_answers) / 2)
    audited = expected_answers(GainRule(audit=1.0))
    assert (audited.all_answers == 16).all() and all((audited.requests[c] == 1).all() for c in CONDITIONS)


def test_the_assumed_population_has_the_papers_gains_and_all_rows() -> None:
    population = assumed_population()
    assert population.counts.sum() == pytest.approx(SCORED) and (population.counts >= 0).all()
    for gain, rows in KEPT_BY_GAIN.items():
        found = sum(population.counts[p, p + gain] for p in range(min(6, 8 - gain) + 1))
        assert found >= rows - 1e-6 if gain == 3 else found == pytest.approx(rows)
    assert population.kept(PAPER) * SCORED > 50_000


def test_kinds_that_contradict_the_paper_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="assume fewer ambiguous rows"):
        assumed_population(Kinds(saturated=0.3, hopeless=0.3, ambiguous=0.4))
    with pytest.raises(ValueError, match="must sum to 1"):
        Kinds(saturated=0.5)


@pytest.fixture
def gains(tmp_path: Path) -> list[Path]:
    """Two tables: six audited rows, of which one is pending, and one that was not drawn."""
    rows = [(0, 8, True), (0, 8, True), (8, 8, True), (None, None, True), (3, 4, True), (0, 8, True), (7, 7, False)]
    table = pl.DataFrame(rows, schema={"p_t": pl.Int64, "p_v": pl.Int64, "audited": pl.Boolean}, orient="row")
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    table[:3].write_parquet(files[0])
    table[3:].write_parquet(files[1])
    return files


def test_an_observed_population_is_that_of_the_audited_rows(gains: list[Path]) -> None:
    population = population_of(gains)
    assert population.observed == 5 and "1 pending" in population.source
    assert {cell: population.counts[cell] for cell in ((0, 8), (8, 8), (3, 4), (7, 7))} == {
        (0, 8): 3, (8, 8): 1, (3, 4): 1, (7, 7): 0,
    }  # fmt: skip
    with pytest.raises(ValueError, match="the rule asks for 4 answers"):
        population_of(gains, samples=4)
    unaudited = gains[0].with_name("c.parquet")
    pl.read_parquet(gains[0]).with_columns(audited=False).write_parquet(unaudited)
    with pytest.raises(ValueError, match="no audited row"):
        population_of([unaudited])


def test_more_observed_rows_narrow_what_is_saved() -> None:
    widths = []
    for observed in (100, 10_000):
        counts = one_kind(8, 8).counts + one_kind(0, 8).counts
        plan = estimate(1000, PAPER, Population(counts, "two kinds", observed), PlanAssumptions())
        low, high = plan.saved_between
        assert plan.saved == pytest.approx(9 / 32) and low < plan.saved < high
        widths.append(high - low)
    assert widths[0] == pytest.approx(10 * widths[1])


def test_a_plans_arithmetic() -> None:
    known = PlanAssumptions().given(
        plain_tokens=100, hint_tokens=300, answer_tokens=50, prefill_per_second=1000, decode_per_second=500, gpus=2,
        judge_share=0.5, judge_distinct=0.5, judge_prompt_tokens=400, judge_answer_tokens=10, price_in=2, price_out=10,
    )  # fmt: skip
    plan = estimate(1000, GainRule(audit=0.0), one_kind(0, 8), known)  # a kept row: 2 portions of 4 a condition
    cost = plan.curtailed
    assert (cost.answers, cost.requests, cost.completion_tokens) == pytest.approx((16_000, 4_000, 800_000))
    assert cost.prompt_tokens == pytest.approx(2_000 * 100 + 2_000 * 300)
    assert cost.gpu_hours == pytest.approx((800_000 / 1000 + 800_000 / 500) / 3600)
    assert cost.wall_hours == pytest.approx(cost.gpu_hours / 2)
    assert cost.judge_calls == pytest.approx(4_000)
    assert cost.judge_cost == pytest.approx((4_000 * 400 * 2 + 4_000 * 10 * 10) / 1e6)
    assert plan.full.requests == pytest.approx(2_000) and plan.saved == pytest.approx(0)


def test_a_measured_rate_of_answers_counts_in_place_of_tokens() -> None:
    plan = estimate(900, PAPER, one_kind(0, 8), PlanAssumptions().given(answers_per_second=4))
    assert plan.curtailed.gpu_hours == pytest.approx(1.0)


def test_every_number_of_a_plan_says_where_it_comes_from() -> None:
    plan = estimate(2_700_000, GainRule(), assumed_population(), PlanAssumptions().given(price_in=0.5, gpus=16))
    told = {name: (value, source) for name, value, source in plan.assumed()}
    assert told["gpus"] == ("16", "given") and told["answer tokens"][1].startswith("assumed: ")
    assert "price out" not in told
    assert told["answers saved"][0] == "37.9 % (28.1 to 47.7)"
    assert "saturated=0.4" in told["rows the rule keeps"][1]
    shown = {name: values for name, *values in plan.lines()}
    assert shown["answers"] == ["26.8 M", "43.2 M"]
    assert shown["judge's price"] == ["-", "-"]  # only one of the two prices is known


def test_what_cannot_be_planned_says_why() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        estimate(0, PAPER, assumed_population(), PlanAssumptions())
    with pytest.raises(ValueError, match="asks for 4 answers"):
        estimate(1, GainRule(samples=4), assumed_population(), PlanAssumptions())
    with pytest.raises(ValueError, match=r"judge_share must be 0 or more, at most 1; found 90"):
        PlanAssumptions().given(judge_share=90)
    for wrong in ({"gpus": 0}, {"answers_per_second": float("nan")}, {"price_in": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PlanAssumptions().given(**wrong)


def test_an_earlier_run_gives_tokens_rate_and_the_judges_share(tmp_path: Path) -> None:
    def answer(sample: int, tokens: int) -> dict[str, object]:
        return dict.fromkeys(ANSWERS) | {
            "prompt_id": "a/plain", "sample": sample, "text_tokens": tokens, "latent_tokens": 0, "control_tokens": 1,
            "prefill_seconds": 0.25, "decode_seconds": 0.75,
        }  # fmt: skip

    answers, verdicts = tmp_path / "answers.parquet", tmp_path / "verdicts.parquet"
    pl.DataFrame([answer(0, 9), answer(1, 19)], schema=ANSWERS).write_parquet(answers)
    texts = [
        "<answer>it falls</answer>",
        "so <answer>it falls</answer>",
        "<answer>it stops</answer>",
        "<answer>x</answer>",
    ]
    by = ["judge", "judge", "judge", "rule"]
    pl.DataFrame({"row_id": ["a"] * 4, "text": texts, "graded_by": by}).write_parquet(verdicts)
    known = PlanAssumptions().measured([answers], [verdicts], at_once=3)
    assert (known.answer_tokens.value, known.answer_tokens.source) == (15, "measured on 2 answers")
    assert known.answers_per_second is not None and known.answers_per_second.value == pytest.approx(3)
    assert known.judge_share.value == pytest.approx(0.75)
    assert known.judge_distinct.value == pytest.approx(2 / 3)
    assert known.plain_tokens == PlanAssumptions().plain_tokens
