"""Future-L1-50K and the sets around it: SQL over the scored shards, the same at 5,000 rows and at 2.7 million.

Kept are rows that the hint makes answerable: p_t <= 6 and p_v - p_t >= 2, ranked by gain, the first 50,000 (the paper,
section 3.2).  The paper does not say how equal gains are ordered; here by the SHA-256 of the row id, so that the cut
favours no shard, clip or category and is the same on every machine.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dataframely as dy
import duckdb
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from training.data.trajectory import TrajectoryTable


class SelectionSettings(BaseModel):
    """The paper's thresholds on counts of 8 answers, and how many rows to publish."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_p_t: int = Field(default=6, ge=0)
    min_gain: int = 2
    top: int = Field(default=50_000, ge=1)


class CuratedTable(TrajectoryTable):
    """A published row: the trajectory, the public dataset's columns for the same content, and what selected it."""

    rank = dy.Int64(min=1)
    conversations = dy.List(dy.Struct({"from": dy.String(), "value": dy.String()}), min_length=2, max_length=2)
    image = dy.List(dy.Int64(min=1, max=8))
    reasoning_image = dy.List(dy.Int64(min=1, max=8))
    meta_data = dy.Struct(
        {"classification": dy.String(), "start": dy.String(nullable=True), "end": dy.String(nullable=True)}
    )
    path = dy.String(min_length=1)
    frame_count = dy.Int64(min=1)
    p_t = dy.Int64(nullable=True, min=0)  # null in the random set alone: it takes rows whatever their score
    p_v = dy.Int64(nullable=True, min=0)
    gain = dy.Int64(nullable=True)
    correct_in_8_base = dy.Int64(nullable=True, min=0)
    correct_in_8_hint = dy.Int64(nullable=True, min=0)


_SCORED = "FROM read_parquet($files, union_by_name = true)"
_RETAINED = f"{_SCORED} WHERE p_t <= $max_p_t AND gain >= $min_gain"
_DRAWN = "sha256($seed || ':' || row_id), row_id"


def select(scored: Sequence[Path], settings: SelectionSettings) -> pl.DataFrame:
    """Future-L1-50K: the retained rows of all scored shards in rank order, cut at `top`."""
    order = "gain DESC, sha256(row_id), row_id"
    query = f"SELECT *, row_number() OVER (ORDER BY {order}) AS rank {_RETAINED} ORDER BY rank LIMIT $top"
    return published(_query(query, scored, settings, top=settings.top))


def random_set(scored: Sequence[Path], rows: int, seed: int) -> pl.DataFrame:
    """The control of the paper's Table 6: as many rows drawn from all answered ones, whatever their gain."""
    query = f"SELECT *, row_number() OVER (ORDER BY {_DRAWN}) AS rank {_SCORED} ORDER BY rank LIMIT $rows"
    return published(_query(query, scored, None, rows=rows, seed=str(seed)))


def rl_set(
    scored: Sequence[Path], settings: SelectionSettings, sft: pl.DataFrame, rows: int, seed: int
) -> pl.DataFrame:
    """Rows drawn with a seed from the retained pool, on clips that SFT does not see; fewer if the pool is smaller."""
    query = (
        f"SELECT *, row_number() OVER (ORDER BY {_DRAWN}) AS rank {_RETAINED}"
        " AND NOT list_contains($seen, video) ORDER BY rank LIMIT $rows"
    )
    seen = sft["video"].unique().sort().to_list()
    return published(_query(query, scored, settings, rows=rows, seed=str(seed), seen=seen))


def selection_report(scored: Sequence[Path], settings: SelectionSettings, selected: pl.DataFrame) -> dict[str, Any]:
    """Where every row went, and what the selected ones are like; the histograms count rows by gain."""
    counts = _query(
        f"""SELECT count(*) AS read, count(gain) AS scored, count(*) - count(gain) AS pending,
            count(*) FILTER (p_t > $max_p_t) AS saturated,
            count(*) FILTER (p_t <= $max_p_t AND gain < $min_gain) AS low_gain,
            count(*) FILTER (p_t <= $max_p_t AND gain >= $min_gain) AS retained {_SCORED}""",
        scored,
        settings,
    ).row(0, named=True)
    histogram = _query(f"SELECT gain, count(*) AS n {_SCORED} WHERE gain IS NOT NULL GROUP BY gain", scored, None)
    return {
        "read": counts["read"],
        "scored": counts["scored"],
        "kept": selected.height,
        "rejected": counts["scored"] - selected.height,
        "rejected_by_reason": {
            "saturated": counts["saturated"],
            "low_gain": counts["low_gain"],
            "below_the_cut": counts["retained"] - selected.height,
        },
        "pending": counts["pending"],
        "retained": counts["retained"],
        "lowest_gain_kept": selected["gain"].min(),
        "gain_histogram": _histogram(histogram),
        "gain_histogram_kept": _histogram(selected["gain"].value_counts()),
        "categories": dict(selected["category"].value_counts(sort=True).iter_rows()),
        "future_frames": _histogram(selected.select(pl.col("future").list.len().alias("k"))["k"].value_counts()),
    }


def published(rows: pl.DataFrame) -> pl.DataFrame:
    """Ranked rows with the public dataset's columns added (reference/paper.md 4.1), validated."""
    schema: Any = CuratedTable.create_empty().schema
    table = rows.with_columns(
        pl.Series("conversations", [_conversation(r) for r in rows.iter_rows(named=True)], schema["conversations"]),
        pl.col("observed").alias("image"),
        pl.col("future").alias("reasoning_image"),
        pl.struct(pl.col("category").alias("classification"), "start", "end").alias("meta_data"),
        pl.col("p_t").alias("correct_in_8_base"),
        pl.col("p_v").alias("correct_in_8_hint"),
    )
    return CuratedTable.validate(table.select(CuratedTable.column_names()), cast=True)


def difference(new: pl.DataFrame, old: pl.DataFrame) -> dict[str, Any]:
    """What a new publication changes against the one before: rows in and out, gain drift, category shift."""
    both = new.join(old, on="row_id", suffix="_before")
    drift = both.filter(pl.col("gain") != pl.col("gain_before"))
    shares = [dict(t["category"].value_counts(normalize=True).iter_rows()) for t in (new, old)]
    return {
        "rows_in": new.join(old, on="row_id", how="anti").height,
        "rows_out": old.join(new, on="row_id", how="anti").height,
        "rows_kept": both.height,
        "gains_changed": drift.height,
        "mean_gain_before": old["gain"].mean(),
        "mean_gain": new["gain"].mean(),
        "category_shift": {c: shares[0].get(c, 0.0) - shares[1].get(c, 0.0) for c in sorted({*shares[0], *shares[1]})},
    }


def _conversation(row: dict[str, Any]) -> list[dict[str, str]]:
    """The public layout: numbered thoughts, an `<image>` where each future frame belongs; the answer is a column."""
    lines: list[str] = []
    thoughts = 0
    for i, piece in enumerate(row["reasoning"]):
        if piece:
            thoughts += 1
            lines.append(f"THOUGHT {thoughts}: {piece}")
        if i < len(row["future"]):
            lines.append("<image>")
    return [{"from": "human", "value": row["question"]}, {"from": "gpt", "value": "\n".join(lines)}]


def _query(sql: str, files: Sequence[Path], settings: SelectionSettings | None, **values: Any) -> pl.DataFrame:
    if not files:
        raise ValueError("no scored shards: materialise curation/visual_gain first")
    values["files"] = [str(path) for path in files]
    if settings:
        values |= {"max_p_t": settings.max_p_t, "min_gain": settings.min_gain}
    with duckdb.connect() as connection:
        return pl.DataFrame(connection.sql(sql, params=values).to_arrow_table())


def _histogram(counts: pl.DataFrame) -> dict[str, int]:
    """Two columns, value and count, as a JSON object in the order of the values."""
    return {str(value): n for value, n in sorted(counts.iter_rows())}
