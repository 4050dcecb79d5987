"""An estimate's arithmetic can be followed, and its assumptions are listed."""

from pathlib import Path

import polars as pl
import pytest

from assets.curation.estimate import Assumptions, Quantity, estimate
from evaluation.generation.curtailment import GainRule
from training.data.prompts import ANSWERS


def rows(number: float) -> Quantity:
    return Quantity(value=number, source="stated")


def test_an_estimates_arithmetic() -> None:
    assumptions = Assumptions().stated(
        plain_tokens=100, hint_tokens=300, answer_tokens=50, prefill_per_second=1000, decode_per_second=500, gpus=2,
        judge_share=0.5, judge_distinct=0.5, judge_prompt_tokens=400, judge_answer_tokens=10, price_in=2, price_out=10,
    )  # fmt: skip
    cost = estimate(rows(1000), GainRule(), assumptions).cost  # 2 portions of 4 a condition
    assert (cost["answers"], cost["requests (prefills)"], cost["completion tokens"]) == pytest.approx(
        (16_000, 4_000, 800_000)
    )
    assert cost["prompt tokens"] == pytest.approx(2_000 * 100 + 2_000 * 300)
    assert cost["GPU-hours"] == pytest.approx((800_000 / 1000 + 800_000 / 500) / 3600)
    assert cost["hours on 2 GPUs"] == pytest.approx(cost["GPU-hours"] / 2)
    assert cost["judge calls"] == pytest.approx(4_000)
    assert cost["judge's price"] == pytest.approx((4_000 * 400 * 2 + 4_000 * 10 * 10) / 1e6)


def test_without_curtailment_a_prompt_is_prefilled_once() -> None:
    assert (
        estimate(rows(1000), GainRule(full_sampling_fraction=1.0), Assumptions()).cost["requests (prefills)"] == 2_000
    )


def test_measured_answers_count_in_place_of_all() -> None:
    cost = estimate(rows(1000), GainRule(), Assumptions().stated(answers_per_row=9)).cost
    assert (cost["answers"], cost["requests (prefills)"]) == (9_000, 2_250)


def test_a_measured_rate_of_answers_counts_in_place_of_tokens() -> None:
    result = estimate(rows(900), GainRule(), Assumptions().stated(answers_per_second=4))
    assert result.cost["GPU-hours"] == pytest.approx(1.0)


def test_a_guess_makes_hours_a_range() -> None:
    result = estimate(rows(1000), GainRule(), Assumptions())
    assert Assumptions().decode_per_second.most is not None
    least, most = result.least["GPU-hours"], result.cost["GPU-hours"]
    assert least is not None and most is not None and 0 < least < most / 2
    assert result.least["completion tokens"] == result.cost["completion tokens"]
    lines = dict(result.lines())
    assert " – " in lines["GPU-hours"] and lines["completion tokens"] == "4.62 M"
    stated = estimate(rows(1000), GainRule(), Assumptions().stated(decode_per_second=5000))
    assert stated.least == stated.cost


def test_every_number_of_an_estimate_says_where_it_comes_from() -> None:
    result = estimate(rows(2_700_000), GainRule(), Assumptions().stated(price_in=0.5, gpus=16))
    table = {name: (value, source) for name, value, source in result.assumed()}
    assert table["gpus"] == ("16", "stated") and table["answer tokens"][1].startswith("assumed: ")
    assert table["answers per row"] == ("16", "assumed: every answer that the rule may ask for; at most")
    assert "price out" not in table
    lines = dict(result.lines())
    assert lines["answers"] == "43.2 M"
    assert lines["judge's price"] == "-"  # only one of the two prices is known


def test_what_cannot_be_estimated_says_why() -> None:
    for number in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="at least one row"):
            estimate(rows(number), GainRule(), Assumptions())
    with pytest.raises(ValueError, match=r"judge_share must be 0 or more, at most 1; found 90"):
        Assumptions().stated(judge_share=90)
    for wrong in ({"gpus": 0}, {"answers_per_second": float("nan")}, {"price_in": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Assumptions().stated(**wrong)


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
    assumptions = Assumptions().measured(4, [answers], [verdicts], at_once=3)
    assert assumptions.answers_per_row == Quantity(value=0.5, source="measured on 4 rows")
    assert (assumptions.answer_tokens.value, assumptions.answer_tokens.source) == (15, "measured on 2 answers")
    assert assumptions.answers_per_second is not None and assumptions.answers_per_second.value == pytest.approx(3)
    assert assumptions.judge_share.value == pytest.approx(0.75)
    assert assumptions.judge_distinct.value == pytest.approx(2 / 3)
    assert assumptions.plain_tokens == Assumptions().plain_tokens
