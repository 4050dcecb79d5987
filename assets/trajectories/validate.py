"""One TwiFF shard to validated trajectories and a quarantine: every row ends in one of the two tables."""

from pathlib import Path
from typing import Any

import dataframely as dy
import polars as pl

from training.data.trajectory import RejectedRow, Trajectory, TrajectoryTable, parse_row, to_frame

TWIFF_COLUMNS = ("video", "question", "answer", "question_images_index", "reasoning_images_index")
CONVERSATION_COLUMNS = ("video", "conversations", "image", "reasoning_image")
OPTIONAL_COLUMNS = ("meta_data", "answer")  # besides these, shards may embed images, which nothing here reads
META_FIELDS = ("classification", "start", "end")


class Quarantine(dy.Schema):
    """Rows that are not used, and why: `row` counts from 0 in the source, `row_id` is known once a row was parsed."""

    source = dy.String()
    row = dy.Int64(nullable=True, min=0)
    row_id = dy.String(nullable=True)
    reason = dy.String(min_length=1)
    detail = dy.String()

    @dy.rule()
    def the_row_can_be_found(cls) -> pl.Expr:
        return pl.col("row").is_not_null() | pl.col("row_id").is_not_null()


def pull_shard(path: Path) -> tuple[dy.DataFrame[TrajectoryTable], dy.DataFrame[Quarantine]]:
    """The trajectories of one parquet shard (TwiFF-2.7M or Future-L1-50K layout), and its quarantine.

    A bad row never stops the others.  Raises ValueError, naming the file, if the shard is in neither layout.
    """
    trajectories: dict[str, Trajectory] = {}
    first_rows: dict[str, int] = {}
    rejected: list[dict[str, Any]] = []
    for number, row in enumerate(_read(path).iter_rows(named=True)):
        try:
            trajectory = parse_row(row, path.stem, number)
            if trajectory.row_id in trajectories:
                raise RejectedRow("repeated row", f"has the same content as row {first_rows[trajectory.row_id]}")
        except RejectedRow as reject:
            rejected.append(quarantined(path.stem, reject, row=number))
        else:
            trajectories[trajectory.row_id] = trajectory
            first_rows[trajectory.row_id] = number
    return to_frame(trajectories.values()), quarantine_table(rejected)


def quarantined(source: str, reject: RejectedRow, row: int | None = None, row_id: str | None = None) -> dict[str, Any]:
    """One row of a quarantine table."""
    return {"source": source, "row": row, "row_id": row_id, "reason": reject.reason, "detail": reject.detail}


def quarantine_table(rows: list[dict[str, Any]]) -> dy.DataFrame[Quarantine]:
    return Quarantine.validate(pl.DataFrame(rows, schema=Quarantine.create_empty().schema))


def _read(path: Path) -> pl.DataFrame:
    """The columns that a trajectory is made of; of `meta_data` only three fields, and no embedded image."""
    try:
        schema = pl.read_parquet_schema(path)
    except (pl.exceptions.ComputeError, OSError) as error:
        raise ValueError(f"{path} cannot be read as parquet: {error}") from error
    layouts = (CONVERSATION_COLUMNS, TWIFF_COLUMNS)
    layout = next((columns for columns in layouts if set(columns) <= set(schema)), None)
    if layout is None:
        needed = " or ".join(str(list(columns)) for columns in layouts)
        raise ValueError(f"{path} is not a TwiFF shard: it has columns {sorted(schema)}, a shard needs {needed}")
    columns = {name: pl.col(name) for name in (*layout, *OPTIONAL_COLUMNS) if name in schema}
    meta = schema.get("meta_data")
    if isinstance(meta, pl.Struct):
        known = [pl.col("meta_data").struct.field(f.name) for f in meta.fields if f.name in META_FIELDS]
        columns["meta_data"] = (pl.struct(known) if known else pl.lit(None)).alias("meta_data")
    return pl.scan_parquet(path).select(columns.values()).collect()
