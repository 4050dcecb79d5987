"""Counts, not rates; pending instead of wrong; the histogram holds every scored row."""

import polars as pl
import pytest

from assets.curation.visual_gain import (
    gain_from_source_counts,
    gain_histogram,
    gain_report,
    verdict_digest,
    verdicts,
    visual_gain,
)
from evaluation.generation.curtailment import GainRule


def answers(**texts_by_prompt: list[str]) -> pl.DataFrame:
    """Answers by `r{row}_{condition}`, one per sample."""
    samples = [
        (f"{int(name[1]):016x}/{name[3:]}", sample, text)
        for name, texts in texts_by_prompt.items()
        for sample, text in enumerate(texts)
    ]
    return pl.DataFrame(samples, schema=["prompt_id", "sample", "text"], orient="row")


def rule(samples: int, **changes: float) -> GainRule:
    return GainRule(**{"samples": samples, "min_gain": 1, "max_p_t": samples, "full_sampling_fraction": 1.0} | changes)


RIGHT, WRONG = "<answer>red</answer>", "<answer>blue</answer>"


def test_gain_counts_the_answers_that_the_hint_makes_right(rows: pl.DataFrame) -> None:
    samples = answers(r0_plain=[RIGHT, WRONG], r0_hint=[RIGHT, RIGHT], r2_plain=[WRONG, WRONG], r2_hint=[RIGHT, WRONG])
    chosen = rows.filter(pl.col("answer") != "it falls")
    table = visual_gain(chosen, verdicts(chosen, samples, "option_text", None), rule(2))
    assert table.select("p_t", "p_v", "gain").rows() == [(1, 2, 1), (2, 1, -1)]
    assert table["row_id"].to_list() == chosen["row_id"].to_list()
    assert table.select("plain_low", "plain_high").row(0) == pytest.approx((0.0945, 0.9055), abs=1e-3)


def test_an_unjudged_answer_makes_its_row_pending_and_is_kept_out_of_the_counts(rows: pl.DataFrame) -> None:
    samples = answers(r1_plain=["<answer>it rises</answer>", "<answer>it falls</answer>"], r1_hint=[RIGHT[:5]] * 2)
    table = visual_gain(rows[1:2], verdicts(rows[1:2], samples, "option_text", None), rule(2))
    row = table.row(0, named=True)
    assert (row["n_correct_plain"], row["n_graded_plain"], row["n_graded_hint"], row["unjudged"]) == (1, 1, 2, 1)
    assert row["p_t"] is None and row["p_v"] is None and row["gain"] is None


def test_a_row_without_answers_is_pending(rows: pl.DataFrame) -> None:
    samples = answers(r0_plain=[RIGHT], r0_hint=[RIGHT])
    table = visual_gain(rows, verdicts(rows, samples, "option_text", None), rule(1))
    assert table["gain"].to_list() == [0, None, None]
    report = gain_report([table], rule(1))
    assert (report["scored"], report["pending"], report["generations"]) == (1, 2, 2)


def test_answers_to_unknown_rows_are_an_error(rows: pl.DataFrame) -> None:
    with pytest.raises(ValueError, match="not in this shard"):
        verdicts(rows, answers(r9_plain=[RIGHT]), "option_text", None)


def test_the_histogram_has_every_gain_and_only_scored_rows() -> None:
    assert gain_histogram(pl.Series([2, 2, -1, None]), 2) == {-2: 0, -1: 1, 0: 0, 1: 0, 2: 2}


def test_a_row_that_cannot_be_kept_any_more_has_bounds_instead_of_a_gain(rows: pl.DataFrame) -> None:
    samples = answers(r0_plain=[RIGHT, RIGHT], r2_hint=[RIGHT, RIGHT])  # r2 is blue
    chosen = rows.filter(pl.col("answer") != "it falls")
    strict = rule(3, max_p_t=1, min_gain=2, full_sampling_fraction=0.0)
    table = visual_gain(chosen, verdicts(chosen, samples, "option_text", None), strict)
    assert table["status"].to_list() == ["cut", "cut"]
    assert table.select("p_t", "p_v", "gain").rows() == [(None, None, None)] * 2
    assert table.select("gain_low", "gain_high").rows() == [(-3, 1), (-3, 1)]
    report = gain_report([table], strict)
    assert (report["scored"], report["cut"], report["generations"], report["generations_saved"]) == (2, 2, 4, 8)
    assert report["fully_sampled"] == sum(report["gain_histogram"].values()) == 0


def test_what_a_judge_settles_later_is_another_version(rows: pl.DataFrame) -> None:
    samples = answers(r1_plain=["<answer>it rises</answer>"])
    before = verdicts(rows[1:2], samples, "option_text", None)
    assert before["verdict"].to_list() == ["unjudged"]
    assert verdict_digest(before) == verdict_digest(verdicts(rows[1:2], samples, "option_text", None))
    settled = before.with_columns(pl.lit("correct").alias("verdict"))
    assert verdict_digest(settled) != verdict_digest(before)


def test_counts_that_the_source_brings_are_taken_over(rows: pl.DataFrame) -> None:
    with_counts = rows.with_columns(
        pl.Series("source_p_t", [1, 7, None], pl.Int64), pl.Series("source_p_v", [8, 8, None], pl.Int64)
    )
    table = gain_from_source_counts(with_counts, GainRule())
    assert table.select("p_t", "p_v", "gain", "status").rows() == [
        (1, 8, 7, "complete"), (7, 8, 1, "complete"), (None, None, None, "pending"),
    ]  # fmt: skip
    report = gain_report([table], GainRule())
    assert (report["generations"], report["generations_saved"], report["pending"]) == (0, 0, 1)
