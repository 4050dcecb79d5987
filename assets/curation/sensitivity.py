"""What other thresholds, fewer answers and another K would have kept, from stored counts and without new generations.

Where the stored counts decide every row (thresholds at least as strict as those used, or nothing was cut short), the
numbers are exact.  Elsewhere rows that were cut short have bounds, and the audited rows, which were drawn by a hash and
answered in full, estimate the number with a Wilson interval.  Counts are of rows that pass the thresholds; for exact
rows of the full number of answers, `clean` is what is left of them without repeats and rows that a benchmark has, too.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import dataframely as dy
import polars as pl

from assets.curation.pool import scan
from assets.curation.selection import SelectionSettings
from evaluation.statistics import wilson
from training.parquet import scan_parquet


class SensitivityTable(dy.Schema):
    """One setting a row.  `passing` is null where it is not known exactly, the estimate where nothing was audited."""

    rollouts = dy.Int64(primary_key=True, min=1)
    max_p_t = dy.Int64(primary_key=True, min=0)
    min_gain = dy.Int64(primary_key=True)
    top = dy.Int64(primary_key=True, min=1)
    kind = dy.String(check=lambda kind: kind.is_in(["exact", "bounds+audit"]))
    passing = dy.Int64(nullable=True, min=0)
    passing_low = dy.Int64(min=0)
    passing_high = dy.Int64(min=0)
    estimate = dy.Float64(nullable=True, min=0)
    estimate_low = dy.Float64(nullable=True, min=0)
    estimate_high = dy.Float64(nullable=True, min=0)
    audited = dy.Int64(min=0)
    clean = dy.Int64(nullable=True, min=0)
    published_low = dy.Int64(min=0)
    published_high = dy.Int64(min=0)
    lowest_gain = dy.Int64(nullable=True)

    @dy.rule()
    def exact_rows_have_one_number(cls) -> pl.Expr:
        return (pl.col("kind") == "exact") == pl.col("passing").is_not_null()


def sensitivity(
    scored: Sequence[Path],
    used: SelectionSettings,
    samples: int,
    pool: pl.DataFrame,
    grid: Sequence[tuple[int, int]],
    tops: Sequence[int],
    verdicts: Sequence[Path] = (),
    rollouts: Sequence[int] = (),
) -> pl.DataFrame:
    """`SensitivityTable` over thresholds (max_p_t, min_gain), K, and numbers of answers.

    `samples` answers a condition were asked for, `pool` is the selection's.  For `rollouts` fewer than that, the first
    answers of `verdicts` (row_id, condition, sample, verdict) are counted, and the thresholds, given for `samples`,
    are scaled: max_p_t down, min_gain up to whole answers.
    """
    rows = []
    for number, counts in [(samples, _counts(scored)), *((n, _first(scored, verdicts, n)) for n in rollouts)]:
        if not 1 <= number <= samples:
            raise ValueError(f"{number} answers a condition: only 1 to {samples} were asked for")
        for max_p_t, min_gain in grid:
            a, g = math.floor(max_p_t * number / samples), math.ceil(min_gain * number / samples)
            cell = _cell(counts, number, a, g)
            strict = number == samples and max_p_t <= used.max_p_t and min_gain >= used.min_gain
            known = pool.filter((pl.col("p_t") <= max_p_t) & (pl.col("gain") >= min_gain)) if strict else None
            rows += [{"rollouts": number, "max_p_t": max_p_t, "min_gain": min_gain, **_told(cell, known, top)}
                     for top in tops]  # fmt: skip
    return SensitivityTable.validate(pl.DataFrame(rows, schema=SensitivityTable.create_empty().schema))


def _counts(scored: Sequence[Path]) -> pl.DataFrame:
    """How many rows share their counts: a table of at most a few thousand rows, whatever the number of trajectories."""
    each = scan(scored).select(
        pl.col("row_id").hash(), "right_plain", "asked_plain", "right_hint", "asked_hint", "audited"
    )
    known = pl.col("asked_plain") + pl.col("asked_hint")
    best = each.group_by("row_id").agg(pl.all().sort_by(known, descending=True).first())
    return _tallied(best)


def _first(scored: Sequence[Path], verdicts: Sequence[Path], number: int) -> pl.DataFrame:
    """The same of the first `number` answers of each condition."""
    if not verdicts:
        raise ValueError("fewer answers are counted from the tables of verdicts: give them")
    told = scan_parquet(*verdicts, extra_columns="ignore").filter(
        (pl.col("sample") < number) & (pl.col("verdict") != "unjudged")
    )
    columns = {
        f"{name}_{condition}": (value & (pl.col("condition") == condition)).sum().cast(pl.Int64)
        for condition in ("plain", "hint")
        for name, value in (("right", pl.col("verdict") == "correct"), ("asked", pl.lit(True)))
    }
    distinct = told.select("row_id", "condition", "sample", "verdict").unique(["row_id", "condition", "sample"])
    counted = distinct.group_by("row_id").agg(**columns)
    rows = scan(scored).group_by("row_id").agg(pl.col("audited").any())
    return _tallied(rows.join(counted, on="row_id", how="left").with_columns(pl.col(*columns).fill_null(0)))


def _tallied(rows: pl.LazyFrame) -> pl.DataFrame:
    columns = ("right_plain", "asked_plain", "right_hint", "asked_hint", "audited")
    return rows.group_by(columns).agg(pl.len().cast(pl.Int64).alias("rows")).collect(engine="streaming")


def _cell(counts: pl.DataFrame, number: int, max_p_t: int, min_gain: int) -> dict[str, int]:
    """Rows that pass for certain, and that could; audited rows that are complete, and that pass."""
    fewest, most = pl.col("right_plain"), pl.col("right_plain") + number - pl.col("asked_plain")
    low, high = pl.col("right_hint") - most, pl.col("right_hint") + number - pl.col("asked_hint") - fewest
    surely = (most <= max_p_t) & (low >= min_gain)
    full = (pl.col("asked_plain") == number) & (pl.col("asked_hint") == number) & pl.col("audited")

    def rows(which: pl.Expr) -> int:
        return int(counts.filter(which)["rows"].sum())

    return {
        "rows": int(counts["rows"].sum()),
        "low": rows(surely),
        "high": rows((fewest <= max_p_t) & (high >= min_gain)),
        "audited": rows(full),
        "passed": rows(full & surely),
    }


def _told(cell: dict[str, int], known: pl.DataFrame | None, top: int) -> dict[str, object]:
    """One row of the table; `known` are the pool's rows that pass, where the pool holds them all."""
    exact = known is not None or cell["low"] == cell["high"]
    passing = known.height if known is not None else cell["low"] if exact else None
    low, high = (passing, passing) if passing is not None else (cell["low"], cell["high"])
    share = wilson(cell["passed"], cell["audited"])
    clean, published, lowest = None, (min(top, low), min(top, high)), None
    if known is not None:
        best = known.drop_nulls("same").unique("same", keep="first", maintain_order=True)
        clean = best.height
        published, lowest = (min(top, clean),) * 2, best.head(top)["gain"].min()
    return {
        "top": top,
        "kind": "exact" if exact else "bounds+audit",
        "passing": passing,
        "passing_low": low,
        "passing_high": high,
        "estimate": cell["rows"] * cell["passed"] / cell["audited"] if share else None,
        "estimate_low": cell["rows"] * share[0] if share else None,
        "estimate_high": cell["rows"] * share[1] if share else None,
        "audited": cell["audited"],
        "clean": clean,
        "published_low": published[0],
        "published_high": published[1],
        "lowest_gain": lowest,
    }
