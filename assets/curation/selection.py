"""Future-L1-50K: which scored rows are published and why the others are not, the same at 5,000 rows and 2.7 million.

Kept are rows that the hint makes answerable: p_t <= 6 and p_v - p_t >= 2, ranked by gain, the first 50,000 (the paper,
section 3.2).  The paper does not say how equal gains are ordered; here by the SHA-256 of the row id, so that the cut
favours no shard, clip or category and is the same on every machine.  Before the cut, rows that a benchmark has, too
(`contamination`), and rows that repeat a better-ranked one (`keys`) are taken out, listed and counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dataframely as dy
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from assets.curation.contamination import BenchmarkIndex, contaminated
from assets.curation.keys import best_of_each, clip_number, keyed, repeated
from assets.curation.local_clips import LocalClipTable
from assets.curation.scored import hash_order, scan, whole_rows
from training.data.keyframes import KEY_FRAMES
from training.data.trajectory import IMAGE
from training.data.trajectory_table import TrajectoryTable

REPEAT = "repeats a better-ranked row"
OUTCOMES = ("retained", "saturated", "low_gain", "pending")
"""The outcomes of the thresholds for a row, the best first: of a row that several shards have, the best one counts."""
PUBLISHED_FROM = (
    *TrajectoryTable.column_names(), "process", "summary", "path", "frame_count", "reader", "p_t", "p_v", "gain",
)  # fmt: skip


class SelectionSettings(BaseModel):
    """The paper's thresholds on counts of 8 answers, and how many rows to publish."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_p_t: int = Field(default=6, ge=0)
    """Rows with at most so many correct answers without the hint are kept."""
    min_gain: int = 2
    """Rows that the hint gains at least so many correct answers are kept."""
    top: int = Field(default=50_000, ge=1)
    """The most rows to publish, by gain."""


class CuratedTable(TrajectoryTable):
    """A published row: the trajectory, the public dataset's columns for the same content, and what selected it."""

    rank = dy.Int64(
        min=1,
        description="rank in its set: by gain, then by a hash of the id; in an RL set by a hash of the id and the seed",
    )
    conversations = dy.List(
        dy.Struct({"from": dy.String(), "value": dy.String()}),
        min_length=2,
        max_length=2,
        description="human turn (markers, question), gpt turn (numbered thoughts, an `<image>` for each future frame)",
    )
    image = dy.List(dy.Int64(min=1, max=8), description="observed, under the public release's name")
    reasoning_image = dy.List(dy.Int64(min=1, max=8), description="future, under the public release's name")
    meta_data = dy.Struct(
        {
            "Process": dy.String(nullable=True),
            "Summary": dy.String(nullable=True),
            "classification": dy.String(),
            "start": dy.String(nullable=True),
            "end": dy.String(nullable=True),
        },
        description="TwiFF's texts about the clip, category, start and end, as in the public release",
    )
    frame_count = dy.Int64(min=1, description="number of displayed frames of the clip")
    # p_t, p_v and gain are null in the random set alone: it takes rows whatever their score.
    p_t = dy.Int64(nullable=True, min=0, description="correct answers without the hint, of rows answered in full")
    p_v = dy.Int64(nullable=True, min=0, description="correct answers with the hint, of rows answered in full")
    gain = dy.Int64(nullable=True, description="visual gain: p_v - p_t")
    correct_in_8_base = dy.Int64(nullable=True, min=0, description="p_t, under the public release's name")
    correct_in_8_hint = dy.Int64(nullable=True, min=0, description="p_v, under the public release's name")


class PoolTable(dy.Schema):
    """One row that passes the thresholds, in rank order, and what became of it.

    `clip` and `same` are the ranks of the best-ranked row of its clip, and of those rows that are the same question.
    """

    row_id = dy.String(primary_key=True, description="id of the row")
    video = dy.String(description="name of the clip")
    p_t = dy.Int64(min=0, description="correct answers without the hint")
    gain = dy.Int64(description="visual gain: p_v - p_t")
    rank = dy.Int64(min=1, description="rank among the rows that pass the thresholds")
    clip = dy.Int64(min=1, description="rank of the best-ranked row of its clip")
    same = dy.Int64(
        nullable=True,
        min=1,
        description="rank of the best-ranked row that asks the same; null where a benchmark has it",
    )
    status = dy.String(
        check=lambda status: status.is_in(["selected", "below the cut", "repeat", "contaminated"]),
        description="selected, below the cut, repeat or contaminated",
    )


class ExclusionTable(dy.Schema):
    """A row that passes the thresholds and is left out: why, and the benchmark item or the row that it matches."""

    row_id = dy.String(primary_key=True, description="id of the row")
    video = dy.String(description="name of the clip")
    gain = dy.Int64(description="visual gain: p_v - p_t")
    reason = dy.String(min_length=1, description="reason for the exclusion")
    benchmark = dy.String(nullable=True, description="benchmark that it matches")
    item_id = dy.String(nullable=True, description="item of the benchmark that it matches")
    repeats = dy.String(nullable=True, description="better-ranked row that it repeats")

    @dy.rule()
    def it_names_what_it_matches(cls) -> pl.Expr:
        return pl.col("item_id").is_not_null() ^ pl.col("repeats").is_not_null()


@dataclass(frozen=True)
class Selection:
    """`rows` (CuratedTable, LocalClipTable) are published, without their clips; `pool` (PoolTable) and `excluded`
    (ExclusionTable) say what became of all that passed the thresholds; `report` counts.
    """

    rows: pl.DataFrame
    pool: pl.DataFrame
    excluded: pl.DataFrame
    report: dict[str, Any]


def select(scored: Sequence[Path], settings: SelectionSettings, index: BenchmarkIndex) -> Selection:
    """Future-L1-50K from all scored shards, which are scanned once; then the chosen rows are read whole.

    Rows with an id that was there before count once.
    """
    rows = scan(scored)
    passing = (pl.col("p_t") <= settings.max_p_t) & (pl.col("gain") >= settings.min_gain)
    queries = [keyed(rows.filter(passing)), _outcomes(rows, passing, settings)]
    keys, outcomes = pl.collect_all(queries, engine="streaming")
    keys = best_of_each(keys)
    best_first = keys.with_columns(hash_order(keys["row_id"])).sort("gain", "order", descending=[True, False])
    ranked = best_first.drop("order").with_row_index("rank", offset=1)
    matches, contamination = contaminated(ranked, scored, index)
    pool = _pool(ranked.with_columns(clip_number(ranked)), matches, settings.top)
    selected = pool.filter(pl.col("status") == "selected").select("row_id").with_row_index("rank", offset=1)
    chosen = published(whole_rows(scored, selected, PUBLISHED_FROM))
    report = _report(outcomes, pool, chosen) | {"contamination": contamination}
    return Selection(chosen, pool, _excluded(pool, matches), report)


def published(rows: pl.DataFrame) -> pl.DataFrame:
    """Ranked rows with the public dataset's columns added (reference/paper.md 4.1), and with their clips."""
    table = rows.with_columns(
        pl.concat_list(_turn("human", pl.col("question")), _turn("gpt", _reasoning())).alias("conversations"),
        pl.col("observed").alias("image"),
        pl.col("future").alias("reasoning_image"),
        pl.struct(
            pl.col("process").alias("Process"),
            pl.col("summary").alias("Summary"),
            pl.col("category").alias("classification"),
            "start",
            "end",
        ).alias("meta_data"),
        pl.col("p_t").alias("correct_in_8_base"),
        pl.col("p_v").alias("correct_in_8_hint"),
    )
    curated = CuratedTable.validate(table.select(CuratedTable.column_names()), cast=True)
    return curated.with_columns(table.select(LocalClipTable.column_names()))


def _turn(speaker: str, text: pl.Expr) -> pl.Expr:
    return pl.struct(pl.lit(speaker).alias("from"), text.alias("value"))


def _reasoning() -> pl.Expr:
    """The public layout: numbered thoughts, an `<image>` where each future frame belongs; the answer is a column."""
    lines: list[pl.Expr] = []
    thoughts = pl.lit(0)
    for i in range(KEY_FRAMES + 1):
        piece = pl.col("reasoning").list.get(i, null_on_oob=True)
        is_thought = (piece != "").fill_null(False)
        thoughts = thoughts + is_thought
        lines.append(pl.when(is_thought).then(pl.format("THOUGHT {}: {}", thoughts, piece)))
        lines.append(pl.when(pl.col("future").list.len() > i).then(pl.lit(IMAGE)))
    return pl.concat_str(lines, separator="\n", ignore_nulls=True)


def _outcomes(rows: pl.LazyFrame, passing: pl.Expr, settings: SelectionSettings) -> pl.LazyFrame:
    """How many rows have each outcome of the thresholds (a number in OUTCOMES); one that several shards have counts
    once, at its best.

    A row without a gain was cut short where its bounds already speak against it, else it is pending.
    """
    saturated = pl.coalesce("p_t", "n_correct_plain") > settings.max_p_t
    low = pl.coalesce("gain", "gain_high") < settings.min_gain
    outcome = pl.when(passing).then(0).when(saturated).then(1).when(low).then(2).otherwise(3)
    columns = rows.select(
        pl.col("row_id").hash(),
        outcome.cast(pl.UInt8).alias("outcome"),
        pl.col("gain").is_not_null().alias("complete"),
        pl.when("fully_sampled").then("gain").alias("fully_sampled"),
    )
    each = columns.group_by("row_id").agg(
        pl.col("outcome").min(), pl.col("complete").any(), pl.col("fully_sampled").max(), pl.len().alias("times")
    )
    return each.group_by("outcome", "complete", "fully_sampled").agg(pl.len().alias("rows"), pl.col("times").sum())


def _pool(ranked: pl.DataFrame, matches: pl.DataFrame, top: int) -> pl.DataFrame:
    """What becomes of each ranked row; `matches` are the rows that a benchmark has, too."""
    apart = ranked.join(matches, on="row_id", how="anti", maintain_order="left")
    apart = apart.select("rank", repeated(apart))
    pool = ranked.select("row_id", "video", "p_t", "gain", "rank", "clip").join(apart, on="rank", how="left")
    first = pl.col("same") == pl.col("rank")
    place = pl.when(first).then(first.cum_sum())
    status = (
        pl.when(pl.col("same").is_null()).then(pl.lit("contaminated")).when(~first).then(pl.lit("repeat"))
        .when(place <= top).then(pl.lit("selected")).otherwise(pl.lit("below the cut"))
    )  # fmt: skip
    return PoolTable.validate(pool.sort("rank").with_columns(status.alias("status")), cast=True)


def _excluded(pool: pl.DataFrame, matches: pl.DataFrame) -> pl.DataFrame:
    by_rank = pool.select(pl.col("rank").alias("same"), pl.col("row_id").alias("repeats"))
    repeats = pool.filter(pl.col("status") == "repeat").join(by_rank, on="same", maintain_order="left")
    repeats = repeats.with_columns(pl.lit(REPEAT).alias("reason"))
    contaminated_rows = pool.join(matches, on="row_id", maintain_order="left")
    columns = ExclusionTable.create_empty()
    listed = pl.concat([columns, contaminated_rows, repeats], how="diagonal_relaxed").sort("rank")
    return ExclusionTable.validate(listed.select(columns.columns))


def _report(outcomes: pl.DataFrame, pool: pl.DataFrame, rows: pl.DataFrame) -> dict[str, Any]:
    """`gain_histogram` counts fully sampled rows alone: rows that were cut short have no gain, and are no sample."""
    by_outcome = dict(outcomes.group_by("outcome").agg(pl.col("rows").sum()).iter_rows())
    counts = {name: by_outcome.get(number, 0) for number, name in enumerate(OUTCOMES)}
    by_status = dict(pool["status"].value_counts().iter_rows())
    read = int(outcomes["rows"].sum())
    complete = int(outcomes.filter("complete")["rows"].sum())
    fully_sampled = outcomes.drop_nulls("fully_sampled").group_by("fully_sampled").agg(pl.col("rows").sum())
    scored = read - counts["pending"]
    categories = rows["category"].value_counts().sort("count", "category", descending=[True, False])
    return {
        "read": read,
        "repeated_across_shards": int(outcomes["times"].sum()) - read,
        "scored": scored,
        "complete": complete,
        "cut_short": scored - complete,
        "pending": counts["pending"],
        "retained": counts["retained"],
        "kept": rows.height,
        "rejected": scored - rows.height,
        "rejected_by_reason": {
            "saturated": counts["saturated"],
            "low_gain": counts["low_gain"],
            "contaminated": by_status.get("contaminated", 0),
            "repeats": by_status.get("repeat", 0),
            "below_the_cut": by_status.get("below the cut", 0),
        },
        "lowest_gain_kept": rows["gain"].min(),
        "fully_sampled": int(fully_sampled["rows"].sum()),
        "gain_histogram": _histogram(fully_sampled),
        "gain_histogram_kept": _histogram(rows["gain"].value_counts()),
        "categories": dict(categories.iter_rows()),
        "future_frames": _histogram(rows["future"].list.len().value_counts()),
        "clips": pool.filter(pl.col("status") == "selected")["clip"].n_unique(),
    }


def _histogram(counts: pl.DataFrame) -> dict[str, int]:
    """Two columns, value and count, as a JSON object in the order of the values."""
    return {str(value): n for value, n in sorted(counts.iter_rows())}
