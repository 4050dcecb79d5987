"""Selection over many scored rows: what ten times the rows cost."""

from pathlib import Path

import numpy as np
import polars as pl

from assets.curation.selection import SelectionSettings, select
from tests.assets.curation.scored_rows import rows_of, trajectory
from tests.performance.conftest import Compare

FEW, MANY = 30_000, 300_000
SETTINGS = SelectionSettings(top=1_000)


def scored(folder: Path, count: int) -> list[Path]:
    """`count` scored rows in ten shards, with p_t and p_v as drawn."""
    rng = np.random.default_rng(0)
    number = pl.int_range(count, eager=True).cast(pl.String).str.zfill(16)
    counts = {name: pl.Series(rng.integers(0, 9, count)) for name in ("p_t", "p_v")}
    table = pl.concat([rows_of(trajectory(0))] * count, rechunk=True).with_columns(
        number.alias("row_id"), (number + ".mp4").alias("video"), **counts
    )
    table = table.with_columns((pl.col("p_v") - pl.col("p_t")).alias("gain"))
    paths = [folder / f"{count}-{shard}.parquet" for shard in range(10)]
    for shard, path in enumerate(paths):
        table.gather_every(10, shard).write_parquet(path)
    return paths


def test_selection_from_ten_times_the_rows(tmp_path: Path, compare: Compare) -> None:
    few, many = scored(tmp_path, FEW), scored(tmp_path, MANY)
    chosen = select(many, SETTINGS)
    assert chosen["gain"].is_sorted(descending=True) and chosen["p_t"].max() <= 6
    assert chosen["rank"].to_list() == list(range(1, 1_001))
    compare(
        f"selection from {MANY:,} rows against {FEW:,}",
        lambda: select(many, SETTINGS),
        lambda: select(few, SETTINGS),
        MANY,
    )
