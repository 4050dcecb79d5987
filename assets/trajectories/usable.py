"""Usable rows: a shard's trajectories whose clip can be read, each row in the first shard that has it alone."""

from collections.abc import Iterator, Sequence

import dataframely as dy
import polars as pl

from assets.framework.store import AssetStore
from assets.trajectories.assets import CLIP_TABLE, CLIPS, QUARANTINE, ROWS, TRAJECTORIES
from assets.trajectories.validate import PulledTable
from training.storage.parquet import read_parquet, scan_parquet

REPEATS = {"row_id": pl.String, "shard": pl.String, "first": pl.String}


class UsableTable(PulledTable):
    """A trajectory and its clip."""

    path = dy.String(min_length=1, description="path of the clip's file")
    frame_count = dy.Int64(min=1, description="number of displayed frames of the clip")
    reader = dy.String(
        regex="^(seek|sequential)$", description="way its frames are read: by seeking, or sequentially from the start"
    )
    sha256 = dy.String(regex="^[0-9a-f]{64}$", description="SHA-256 of the clip's file")


def usable_rows(store: AssetStore, shard: str) -> pl.DataFrame:
    """The shard's `UsableTable`, without `repeats_of_earlier_shards`."""
    clips = (
        scan_parquet(store.current(CLIPS, shard).file(CLIP_TABLE))
        .filter(pl.col("reason").is_null())
        .select("video", "path", pl.col("frames").alias("frame_count"), "reader", "sha256")
    )
    rows = scan_parquet(store.current(TRAJECTORIES, shard).file(ROWS))
    readable = rows.join(clips, on="video", how="inner", maintain_order="left").collect()
    return readable.join(repeats_of_earlier_shards(store, [shard]), on="row_id", how="anti", maintain_order="left")


def repeats_of_earlier_shards(store: AssetStore, shards: Sequence[str]) -> pl.DataFrame:
    """The rows of `shards` (row_id, shard) that a shard before them in order has too (`first`, the earliest one).

    Every shard whose trajectories are current counts, whether it is scored or not; only row_id columns are read.
    """
    current = store.partitions(TRAJECTORIES)
    wanted = sorted(set(shards) & set(current))
    if not wanted:
        return pl.DataFrame(schema=REPEATS)
    ids = {
        shard: scan_parquet(store.current(TRAJECTORIES, shard).file(ROWS)).select("row_id", shard=pl.lit(shard))
        for shard in current
        if shard <= wanted[-1]
    }
    rows = pl.concat([ids[shard] for shard in wanted])
    earlier = pl.concat(ids.values()).join(rows, on="row_id", how="semi")
    first = earlier.group_by("row_id").agg(pl.col("shard").min().alias("first"))
    repeats = rows.join(first, on="row_id").filter(pl.col("first") < pl.col("shard"))
    return repeats.select(*REPEATS).sort("shard", "row_id").collect(engine="streaming")


def quarantined_rows(store: AssetStore, shards: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Quarantine tables of every row that is not usable: rejected, without a clip, or in an earlier shard, too."""
    for shard in shards:
        rejected = read_parquet(store.current(TRAJECTORIES, shard).file(QUARANTINE))
        yield rejected
        yield read_parquet(store.current(CLIPS, shard).file(QUARANTINE)).select(rejected.columns)
    for (shard,), repeats in repeats_of_earlier_shards(store, shards).group_by("shard", maintain_order=True):
        rows = read_parquet(store.current(TRAJECTORIES, str(shard)).file(ROWS), columns=["source", "row", "row_id"])
        without_clip = read_parquet(store.current(CLIPS, str(shard)).file(QUARANTINE), columns=["row_id"])
        readable = rows.join(without_clip, on="row_id", how="anti").join(repeats, on="row_id")
        detail = pl.format("has the same content as a row of {}", "first")
        yield readable.select("source", "row", "row_id", reason=pl.lit("repeated row"), detail=detail)
