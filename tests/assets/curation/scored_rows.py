"""Scored rows as the curation stages hand them on, without a model behind them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from training.data.trajectory_table import TrajectoryTable

MULTIPLE_CHOICE = "frame_1\n<image>\nWhich colour?\nA. red\nB. blue\nC. green\nD. pink"


def trajectory(number: int, **fields: Any) -> dict[str, Any]:
    row = {
        "row_id": f"{number:016x}",
        "source": "shard-0",
        "video": f"clip{number:07d}_0.mp4",
        "question": MULTIPLE_CHOICE,
        "reasoning": ["First it rolls on.", ""],
        "answer": "red",
        "observed": [1],
        "future": [2],
        "category": "predictive",
        "start": "0:00:00.000",
        "end": "0:00:03.000",
        "process": "It rolls over tiles.",
        "summary": "It rolls.",
        "path": f"/clips/clip{number:07d}_0.mp4",
        "frame_count": 24,
        "reader": "sequential",
    }
    row |= fields
    return {"sha256": hashlib.sha256(row["video"].encode()).hexdigest()} | row


def rows_of(*rows: dict[str, Any]) -> pl.DataFrame:
    """Trajectories with the columns that pull and clip resolution add."""
    schema = dict(TrajectoryTable.create_empty().schema) | {
        "process": pl.String,
        "summary": pl.String,
        "path": pl.String,
        "frame_count": pl.Int64,
        "reader": pl.String,
        "sha256": pl.String,
    }
    return pl.DataFrame(list(rows), schema=schema)


SAMPLES = 8
Counts = Sequence[tuple[int, int] | tuple[None, None]]


def scored_of(rows: Sequence[dict[str, Any]], counts: Counts, cut: Sequence[int] = ()) -> pl.DataFrame:
    """The table of visual gain: p_t and p_v of each row, (None, None) for a pending one with no answer.

    Rows whose numbers are in `cut` were stopped after five plain and two hinted answers, five of them right and two
    wrong; rows that were not are fully sampled.
    """
    table = rows_of(*rows).with_columns(
        pl.Series("n_correct_plain", [t or 0 for t, _ in counts], pl.Int64),
        pl.Series("n_correct_hint", [v or 0 for _, v in counts], pl.Int64),
        *(pl.Series(f"n_graded_{c}", [0 if t is None else SAMPLES for t, _ in counts]) for c in ("plain", "hint")),
        pl.lit(0, pl.Int64).alias("unjudged"),
    )
    short = pl.Series([i in cut for i in range(len(rows))])
    stopped = {"n_correct_plain": 5, "n_graded_plain": 5, "n_correct_hint": 0, "n_graded_hint": 2}
    table = table.with_columns(
        *(pl.when(short).then(pl.lit(n, pl.Int64)).otherwise(pl.col(name)).alias(name) for name, n in stopped.items())
    )
    full = (pl.col("n_graded_plain") == SAMPLES) & (pl.col("n_graded_hint") == SAMPLES)
    return table.with_columns(
        pl.when(full).then("n_correct_plain").alias("p_t"),
        pl.when(full).then("n_correct_hint").alias("p_v"),
        (pl.col("n_correct_hint") - pl.col("n_correct_plain") - SAMPLES + pl.col("n_graded_plain")).alias("gain_low"),
        (pl.col("n_correct_hint") - pl.col("n_correct_plain") + SAMPLES - pl.col("n_graded_hint")).alias("gain_high"),
        full.alias("fully_sampled"),
    ).with_columns((pl.col("p_v") - pl.col("p_t")).alias("gain"))


def write_shards(folder: Path, table: pl.DataFrame, shards: int = 1) -> list[Path]:
    """The table dealt out to so many files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{shards}-{shard}.parquet" for shard in range(shards)]
    for shard, path in enumerate(paths):
        table.gather_every(shards, shard).write_parquet(path)
    return paths
