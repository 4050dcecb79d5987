"""Visual gain: how many of a row's answers become right when the probe model is shown the true future.

p_t and p_v count correct answers without and with the hint (the paper's 8 + 8); gain = p_v - p_t (paper, section 3.2).
A row with an answer that no judge could settle, or with fewer answers than asked for, is pending: its p_t, p_v and gain
are null, never lower.
"""

from collections.abc import Sequence

import dataframely as dy
import polars as pl

from assets.curation.prompts import CONDITIONS
from evaluation.statistics import wilson_columns
from training.grading.grade import Answered, grade
from training.grading.judge import Judge
from training.grading.parsers import ParserName


class VerdictTable(dy.Schema):
    """One graded answer a row."""

    row_id = dy.String(primary_key=True)
    condition = dy.String(primary_key=True, check=lambda c: c.is_in(CONDITIONS))
    number = dy.Int64(primary_key=True, min=0, alias="sample")  # `sample` is a method of every schema
    text = dy.String()
    verdict = dy.String(check=lambda v: v.is_in(["correct", "incorrect", "unjudged"]))
    graded_by = dy.String(check=lambda g: g.is_in(["rule", "judge"]))


class GainTable(dy.Schema):
    """The numbers that select a row; right and asked count settled answers per condition."""

    row_id = dy.String(primary_key=True)
    right_plain = dy.Int64(min=0)
    asked_plain = dy.Int64(min=0)
    right_hint = dy.Int64(min=0)
    asked_hint = dy.Int64(min=0)
    unjudged = dy.Int64(min=0)
    p_t = dy.Int64(nullable=True, min=0)
    p_v = dy.Int64(nullable=True, min=0)
    gain = dy.Int64(nullable=True)
    plain_low = dy.Float64(nullable=True, min=0, max=1)
    plain_high = dy.Float64(nullable=True, min=0, max=1)
    hint_low = dy.Float64(nullable=True, min=0, max=1)
    hint_high = dy.Float64(nullable=True, min=0, max=1)

    @dy.rule()
    def gain_is_the_difference(cls) -> pl.Expr:
        return pl.col("gain").eq_missing(pl.col("p_v") - pl.col("p_t"))


def verdicts(rows: pl.DataFrame, answers: pl.DataFrame, parser: ParserName, judge: Judge | None) -> pl.DataFrame:
    """Grades every answer (ids `{row_id}/{condition}`) against its row's answer: the rule first, then the judge."""
    told = (
        answers.select("prompt_id", "sample", "text")
        .with_columns(pl.col("prompt_id").str.split_exact("/", 1).struct.rename_fields(["row_id", "condition"]))
        .unnest("prompt_id")
        .join(rows.select("row_id", "question", "answer"), on="row_id", how="left", maintain_order="left")
    )
    strangers = told.filter(pl.col("question").is_null())["row_id"].unique().sort().to_list()
    if strangers:
        raise ValueError(f"answers to rows that are not in this shard: {strangers[:5]}")
    graded = grade(
        [Answered(q, a, t) for q, a, t in told.select("question", "answer", "text").iter_rows()], parser, judge
    )
    return VerdictTable.validate(
        told.select("row_id", "condition", "sample", "text").with_columns(
            pl.Series("verdict", [g.verdict for g in graded], pl.String),
            pl.Series("graded_by", [g.by for g in graded], pl.String),
        )
    )


def visual_gain(rows: pl.DataFrame, graded: pl.DataFrame, answers_per_condition: int) -> pl.DataFrame:
    """`rows` with the columns of `GainTable`: one row per trajectory, in the order given."""
    settled = pl.col("verdict") != "unjudged"
    columns = [
        expression.cast(pl.Int64).alias(f"{name}_{condition}")
        for condition in CONDITIONS
        for name, expression in (
            ("right", ((pl.col("verdict") == "correct") & (pl.col("condition") == condition)).sum()),
            ("asked", (settled & (pl.col("condition") == condition)).sum()),
        )
    ]
    counts = graded.group_by("row_id").agg(*columns, (~settled).sum().cast(pl.Int64).alias("unjudged"))
    names = [name for name in GainTable.column_names() if name != "row_id"]
    table = rows.join(counts, on="row_id", how="left", maintain_order="left").with_columns(
        pl.col("right_plain", "asked_plain", "right_hint", "asked_hint", "unjudged").fill_null(0)
    )
    complete = pl.all_horizontal(pl.col(f"asked_{c}") == answers_per_condition for c in CONDITIONS)
    table = table.with_columns(
        pl.when(complete).then(pl.col("right_plain")).alias("p_t"),
        pl.when(complete).then(pl.col("right_hint")).alias("p_v"),
    ).with_columns(
        (pl.col("p_v") - pl.col("p_t")).alias("gain"),
        *wilson_columns("right_plain", "asked_plain", "plain"),
        *wilson_columns("right_hint", "asked_hint", "hint"),
    )
    GainTable.validate(table.select("row_id", *names))
    return table


def gain_histogram(gains: pl.Series, answers_per_condition: int) -> dict[int, int]:
    """Rows at each gain from -n to n; rows without a gain are not in it."""
    counted = dict(gains.drop_nulls().value_counts().iter_rows())
    return {g: counted.get(g, 0) for g in range(-answers_per_condition, answers_per_condition + 1)}


def gain_report(tables: Sequence[pl.DataFrame], answers_per_condition: int) -> dict[str, object]:
    """Counts over shards: rows scored and pending, verdicts of the answers, the gain histogram, mean p_t and p_v."""
    table = pl.concat([t.select(GainTable.column_names()) for t in tables])
    histogram = gain_histogram(table["gain"], answers_per_condition)
    return {
        "rows": table.height,
        "scored": table["gain"].count(),
        "pending": table["gain"].null_count(),
        "answers": int(table.select(pl.sum_horizontal(pl.sum("asked_plain", "asked_hint", "unjudged"))).item()),
        "unjudged": int(table["unjudged"].sum()),
        "mean_p_t": table["p_t"].mean(),
        "mean_p_v": table["p_v"].mean(),
        "gain_histogram": {str(g): n for g, n in histogram.items()},
    }
