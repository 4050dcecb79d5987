"""Visual gain: how many more of a row's answers are correct when the model sees the true future frames.

p_t and p_v count correct answers without and with the hint (the paper's 8 + 8); gain = p_v - p_t (paper, section 3.2).
A row that was cut short, because it could not be kept any more, has bounds of its gain instead.  A row with an answer
that no judge could settle, or that could not be generated, is pending: its p_t, p_v and gain are null, never lower.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import dataframely as dy
import polars as pl

from evaluation.generation.curtailment import CONDITIONS, GainRule
from evaluation.statistics import wilson_columns
from training.grading.grade import GradingItem, grade
from training.grading.judge import Judge
from training.grading.parsers import ParserName


class VerdictTable(dy.Schema):
    """One graded answer a row."""

    row_id = dy.String(primary_key=True, description="id of the row")
    condition = dy.String(
        primary_key=True, check=lambda c: c.is_in(CONDITIONS), description="plain (without the hint) or hint"
    )
    # `sample` is a method of every schema.
    number = dy.Int64(primary_key=True, min=0, alias="sample", description="number of the answer, from 0")
    text = dy.String(description="text of the answer")
    verdict = dy.String(
        check=lambda v: v.is_in(["correct", "incorrect", "unjudged"]), description="correct, incorrect, or unjudged"
    )
    graded_by = dy.String(
        check=lambda g: g.is_in(["rule", "judge"]), description="grader that gave the verdict: the rule or the judge"
    )


class GainTable(dy.Schema):
    """The numbers that select a row: n_correct and n_graded count settled verdicts, n_generated all answers."""

    row_id = dy.String(primary_key=True, description="id of the row")
    n_correct_plain = dy.Int64(min=0, description="correct answers without the hint")
    n_graded_plain = dy.Int64(min=0, description="answers without the hint that have a verdict")
    n_generated_plain = dy.Int64(min=0, description="answers generated without the hint")
    n_correct_hint = dy.Int64(min=0, description="correct answers with the hint")
    n_graded_hint = dy.Int64(min=0, description="answers with the hint that have a verdict")
    n_generated_hint = dy.Int64(min=0, description="answers generated with the hint")
    unjudged = dy.Int64(min=0, description="answers that no judge could grade")
    p_t = dy.Int64(nullable=True, min=0, description="correct answers without the hint, of rows answered in full")
    p_v = dy.Int64(nullable=True, min=0, description="correct answers with the hint, of rows answered in full")
    gain = dy.Int64(nullable=True, description="visual gain: p_v - p_t")
    gain_low = dy.Int64(description="lower bound of the gain, given the verdicts so far")
    gain_high = dy.Int64(description="upper bound of the gain, given the verdicts so far")
    fully_sampled = dy.Bool(description="sampled by a hash of its id to be answered in full, whatever its status")
    status = dy.String(
        check=lambda f: f.is_in(["complete", "cut", "pending"]),
        description="complete, cut (its answers could not keep it any more) or pending",
    )
    plain_low = dy.Float64(
        nullable=True, min=0, max=1, description="lower 95 % Wilson bound of the share correct without the hint"
    )
    plain_high = dy.Float64(
        nullable=True, min=0, max=1, description="upper 95 % Wilson bound of the share correct without the hint"
    )
    hint_low = dy.Float64(
        nullable=True, min=0, max=1, description="lower 95 % Wilson bound of the share correct with the hint"
    )
    hint_high = dy.Float64(
        nullable=True, min=0, max=1, description="upper 95 % Wilson bound of the share correct with the hint"
    )

    @dy.rule()
    def gain_is_the_difference(cls) -> pl.Expr:
        return pl.col("gain").eq_missing(pl.col("p_v") - pl.col("p_t"))

    @dy.rule()
    def the_gain_lies_within_its_bounds(cls) -> pl.Expr:
        return pl.col("gain").is_null() | pl.col("gain").is_between("gain_low", "gain_high")

    @dy.rule()
    def only_complete_rows_have_counts(cls) -> pl.Expr:
        return (pl.col("status") == "complete") == pl.col("gain").is_not_null()


def verdicts(rows: pl.DataFrame, answers: pl.DataFrame, parser: ParserName, judge: Judge | None) -> pl.DataFrame:
    """Grades every answer (ids `{row_id}/{condition}`) against its row's answer: the rule first, then the judge."""
    samples = (
        answers.select("prompt_id", "sample", "text")
        .with_columns(pl.col("prompt_id").str.split_exact("/", 1).struct.rename_fields(["row_id", "condition"]))
        .unnest("prompt_id")
        .join(rows.select("row_id", "question", "answer"), on="row_id", how="left", maintain_order="left")
    )
    strangers = samples.filter(pl.col("question").is_null())["row_id"].unique().sort().to_list()
    if strangers:
        raise ValueError(f"answers to rows that are not in this shard: {strangers[:5]}")
    graded = grade(
        [GradingItem(q, a, t) for q, a, t in samples.select("question", "answer", "text").iter_rows()], parser, judge
    )
    return VerdictTable.validate(
        samples.select("row_id", "condition", "sample", "text").with_columns(
            pl.Series("verdict", [g.verdict for g in graded], pl.String),
            pl.Series("graded_by", [g.by for g in graded], pl.String),
        )
    )


def verdict_digest(graded: pl.DataFrame) -> str:
    """The version of a table of verdicts: it changes when a judge settles what it could not before."""
    columns = graded.select("row_id", "condition", "sample", "verdict", "graded_by")
    return hashlib.sha256(columns.write_csv().encode()).hexdigest()[:16]


def visual_gain(rows: pl.DataFrame, graded: pl.DataFrame, rule: GainRule) -> pl.DataFrame:
    """`rows` with the columns of `GainTable`: one row per trajectory, in the order given."""
    settled = pl.col("verdict") != "unjudged"
    columns = [
        expression.cast(pl.Int64).alias(f"{name}_{condition}")
        for condition in CONDITIONS
        for name, expression in (
            ("n_correct", ((pl.col("verdict") == "correct") & (pl.col("condition") == condition)).sum()),
            ("n_graded", (settled & (pl.col("condition") == condition)).sum()),
            ("n_generated", (pl.col("condition") == condition).sum()),
        )
    ]
    counts = graded.group_by("row_id").agg(*columns, (~settled).sum().cast(pl.Int64).alias("unjudged"))
    table = rows.join(counts, on="row_id", how="left", maintain_order="left").with_columns(
        pl.col("^n_(correct|graded|generated)_(plain|hint)$", "unjudged").fill_null(0)
    )
    return _scored(table, rule)


def gain_from_source_counts(rows: pl.DataFrame, rule: GainRule) -> pl.DataFrame:
    """As `visual_gain` for rows that bring their own counts, `source_p_t` and `source_p_v`; others are pending."""
    counted = pl.col("source_p_t").is_not_null() & pl.col("source_p_v").is_not_null()
    table = rows.with_columns(
        pl.col("source_p_t").fill_null(0).alias("n_correct_plain"),
        pl.col("source_p_v").fill_null(0).alias("n_correct_hint"),
        *(pl.when(counted).then(rule.samples).otherwise(0).cast(pl.Int64).alias(f"n_graded_{c}") for c in CONDITIONS),
        *(pl.lit(0, pl.Int64).alias(name) for name in ("n_generated_plain", "n_generated_hint", "unjudged")),
    )
    return _scored(table, rule)


def _scored(table: pl.DataFrame, rule: GainRule) -> pl.DataFrame:
    """Counts per condition to p_t, p_v and gain, or to bounds and what became of the row."""
    low = pl.col("n_correct_hint") - pl.col("n_correct_plain") - (rule.samples - pl.col("n_graded_plain"))
    high = pl.col("n_correct_hint") + (rule.samples - pl.col("n_graded_hint")) - pl.col("n_correct_plain")
    complete = pl.all_horizontal(pl.col(f"n_graded_{c}") == rule.samples for c in CONDITIONS)
    against = (pl.col("n_correct_plain") > rule.max_p_t) | (high < rule.min_gain)
    fully_sampled = pl.Series("fully_sampled", [rule.fully_sampled(row_id) for row_id in table["row_id"]], pl.Boolean)
    scored = table.with_columns(
        pl.when(complete).then(pl.col("n_correct_plain")).alias("p_t"),
        pl.when(complete).then(pl.col("n_correct_hint")).alias("p_v"),
        low.alias("gain_low"),
        high.alias("gain_high"),
        fully_sampled,
        pl.when(complete).then(pl.lit("complete")).when(against).then(pl.lit("cut")).otherwise(pl.lit("pending"))
        .alias("status"),
    ).with_columns(
        (pl.col("p_v") - pl.col("p_t")).alias("gain"),
        *wilson_columns("n_correct_plain", "n_graded_plain", "plain"),
        *wilson_columns("n_correct_hint", "n_graded_hint", "hint"),
    )  # fmt: skip
    GainTable.validate(scored.select(GainTable.column_names()))
    return scored


def gain_histogram(gains: pl.Series, answers_per_condition: int) -> dict[int, int]:
    """Rows at each gain from -n to n; rows without a gain are not in it."""
    counted = dict(gains.drop_nulls().value_counts().iter_rows())
    return {g: counted.get(g, 0) for g in range(-answers_per_condition, answers_per_condition + 1)}


def gain_report(tables: Sequence[pl.DataFrame], rule: GainRule) -> dict[str, Any]:
    """Counts over shards: rows by status, answers generated and saved, and the histogram of fully sampled rows."""
    table = pl.concat([t.select(GainTable.column_names()) for t in tables])
    fully_sampled = table.filter("fully_sampled")
    saturated = pl.col("n_correct_plain") > rule.max_p_t
    retained = fully_sampled.filter((pl.col("p_t") <= rule.max_p_t) & (pl.col("gain") >= rule.min_gain))
    generated = pl.col("n_generated_plain") + pl.col("n_generated_hint")
    cut = table.filter(status="cut")
    decided = table.filter(pl.col("status") != "pending")
    return {
        "rows": table.height,
        "scored": decided.height,
        "complete": decided.height - cut.height,
        "cut": cut.height,
        "pending": table.height - decided.height,
        "rejected_by_reason": {
            "saturated": decided.filter(saturated).height,
            "low_gain": decided.filter(~saturated & (pl.col("gain_high") < rule.min_gain)).height,
        },
        "generations": int(table.select(generated.sum()).item()),
        "generations_saved": int(cut.select((len(CONDITIONS) * rule.samples - generated).sum()).item()),
        "unjudged": int(table["unjudged"].sum()),
        "fully_sampled": fully_sampled.height,
        "mean_p_t": fully_sampled["p_t"].mean(),
        "mean_p_v": fully_sampled["p_v"].mean(),
        "gain_histogram": {str(g): n for g, n in gain_histogram(fully_sampled["gain"], rule.samples).items()},
        "gain_histogram_kept": {str(g): n for g, n in gain_histogram(retained["gain"], rule.samples).items()},
    }
