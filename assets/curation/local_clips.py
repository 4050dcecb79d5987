"""The clips of the published rows on this machine: a table beside the published one, and no part of it."""

from pathlib import Path

import dataframely as dy
import polars as pl

from training.storage.parquet import read_parquet

LOCAL = "local"
"""The folder of an artifact that stays on this machine."""
LOCAL_CLIPS = f"{LOCAL}/clips.parquet"


class LocalClipTable(dy.Schema):
    """The clip of a published row."""

    row_id = dy.String(primary_key=True, description="id of the row")
    path = dy.String(min_length=1, description="path of the clip's file")
    reader = dy.String(
        regex="^(seek|sequential)$", description="way its frames are read: by seeking, or sequentially from the start"
    )


def write_local_clips(rows: pl.DataFrame, folder: Path) -> None:
    """Writes the clips of rows to LOCAL_CLIPS of an artifact's folder."""
    (folder / LOCAL).mkdir(exist_ok=True)
    LocalClipTable.validate(rows.select(LocalClipTable.column_names())).write_parquet(folder / LOCAL_CLIPS)


def training_rows(curated: Path, local_clips: Path) -> pl.DataFrame:
    """The published rows in their order, with their clips: what is trained on."""
    return read_parquet(curated).join(read_parquet(local_clips), on="row_id", how="left", maintain_order="left")
