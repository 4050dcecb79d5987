"""The rows of a shard that can be scored."""

import polars as pl

from assets.framework.store import AssetStore
from assets.trajectories.assets import CLIP_TABLE, CLIPS, ROWS, TRAJECTORIES
from assets.trajectories.repeats import repeated_elsewhere
from training.storage.parquet import scan_parquet


def usable_rows(store: AssetStore, shard: str) -> pl.DataFrame:
    """A shard's trajectories whose clip can be read, with `path`, `frame_count`, `reader` and `sha256` of the clip.

    A row that an earlier shard has, too, is not among them.
    """
    clips = (
        scan_parquet(store.current(CLIPS, shard).file(CLIP_TABLE))
        .filter(pl.col("reason").is_null())
        .select("video", "path", pl.col("frames").alias("frame_count"), "reader", "sha256")
    )
    rows = scan_parquet(store.current(TRAJECTORIES, shard).file(ROWS))
    found = rows.join(clips, on="video", how="inner", maintain_order="left").collect()
    return found.join(repeated_elsewhere(store, [shard]), on="row_id", how="anti", maintain_order="left")
