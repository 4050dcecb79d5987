"""Rows that several shards have: the shard that sorts first keeps them."""

from collections.abc import Sequence

import polars as pl

from assets.framework.store import AssetStore
from assets.trajectories.assets import ROWS, TRAJECTORIES
from training.storage.artifacts import CURRENT
from training.storage.parquet import scan_parquet

COLUMNS = {"row_id": pl.String, "shard": pl.String, "first": pl.String}


def repeated_elsewhere(store: AssetStore, shards: Sequence[str]) -> pl.DataFrame:
    """The rows of `shards` (row_id, shard) that a shard before them in order has too (`first`, the earliest one).

    Every shard whose trajectories are published counts, be it asked about or not; only row_id columns are read.
    """
    folder = store.artifacts.root.joinpath(*TRAJECTORIES.split("/"))
    published = sorted(pointer.parent.name for pointer in folder.glob(f"*/{CURRENT}") if pointer.is_symlink())
    if not published or not set(shards) & set(published):
        return pl.DataFrame(schema=COLUMNS)
    ids = {
        shard: scan_parquet(store.current(TRAJECTORIES, shard).file(ROWS)).select("row_id", shard=pl.lit(shard))
        for shard in published
    }
    asked = pl.concat([ids[shard] for shard in published if shard in set(shards)])
    last = max(set(shards) & set(published))
    candidates = pl.concat([ids[shard] for shard in published if shard <= last])
    first = candidates.join(asked, on="row_id", how="semi").group_by("row_id").agg(pl.col("shard").min().alias("first"))
    found = asked.join(first, on="row_id").filter(pl.col("first") < pl.col("shard"))
    return found.select(*COLUMNS).sort("shard", "row_id").collect(engine="streaming")
