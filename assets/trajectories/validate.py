"""One shard to validated trajectories and a quarantine: every row ends in one of the two tables.

Rows are read one at a time, so memory stays flat however large the file is; of parquet only the columns are read that
a trajectory is made of, so that embedded images cost nothing.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dataframely as dy
import polars as pl

from training.data.json_rows import MAX_ROWS, Numbered, json_rows
from training.data.parquet_rows import parquet_rows
from training.data.rejection import RejectedRow, rejecting
from training.data.row_fields import SOURCE_COUNT_COLUMNS, SOURCE_SAMPLES, source_counts, text_about
from training.data.trajectory import parse_row
from training.data.trajectory_table import TrajectoryTable

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_ROWS = 2048
ALL_ROWS = range(MAX_ROWS)
BROKEN_SHARD = "broken shard"
LAYOUTS = (
    ("video", "conversations", "image", "reasoning_image"),  # Future-L1-50K
    ("video", "conversations", "frames", "recon_frames"),  # TwiFF's training files
    ("video", "question", "answer", "question_images_index", "reasoning_images_index"),  # TwiFF-2.7M
)
OPTIONAL_COLUMNS = ("answer", *SOURCE_COUNT_COLUMNS)
MAX_ROW_BYTES = 2**20
"""Of the columns that are read, for parquet."""
META, META_FIELDS = "meta_data", ("Process", "Summary", "classification", "start", "end")


class PulledTable(TrajectoryTable):
    """Trajectories as they are pulled: `row` counts from 0 in the source; with TwiFF's texts about the clip and the
    counts that an already selected set brings (null elsewhere)."""

    row = dy.Int64(min=0, description="position of the row in the source's file, from 0")
    process = dy.String(nullable=True, description="what happens in the clip: `meta_data.Process` of the source")
    summary = dy.String(nullable=True, description="the same in short: `meta_data.Summary` of the source")
    source_p_t = dy.Int64(
        nullable=True,
        min=0,
        max=SOURCE_SAMPLES,
        description="correct answers without the hint, where the source has counts",
    )
    source_p_v = dy.Int64(
        nullable=True,
        min=0,
        max=SOURCE_SAMPLES,
        description="correct answers with the hint, where the source has counts",
    )

    @dy.rule()
    def both_counts_are_there_or_neither(cls) -> pl.Expr:
        return pl.col("source_p_t").is_null() == pl.col("source_p_v").is_null()


class Quarantine(dy.Schema):
    """Rows that are not used, and why: `row` counts from 0 in the source, `row_id` is known once a row was parsed."""

    source = dy.String(description="shard that the row was read from")
    row = dy.Int64(nullable=True, min=0, description="position of the row in the source's file, from 0")
    row_id = dy.String(nullable=True, description="id of a row that could be parsed")
    reason = dy.String(min_length=1, description="reason for the rejection, one of a few")
    detail = dy.String(description="value that was rejected, and where")

    @dy.rule()
    def a_row_number_or_id_is_there(cls) -> pl.Expr:
        return pl.col("row").is_not_null() | pl.col("row_id").is_not_null()


Batch = tuple[dy.DataFrame[PulledTable], dy.DataFrame[Quarantine]]


def read_rows(path: Path, first: int = 0) -> Iterator[Numbered]:
    """The rows of a file from number `first` on.  Raises ValueError, naming the file, if it is no shard or corrupt."""
    if path.name.endswith(".parquet"):
        return parquet_rows(path, partial(shard_columns, path), MAX_ROW_BYTES, first)
    return json_rows(path, first)


def shard_columns(path: Path, schema: "pa.Schema") -> list[str]:
    """The columns to read, of `meta_data` only META_FIELDS.  Raises ValueError if they make no layout."""
    import pyarrow as pa

    names = set(schema.names)
    layout = next((columns for columns in LAYOUTS if set(columns) <= names), None)
    if layout is None:
        needed = " or ".join(str(list(columns)) for columns in LAYOUTS)
        raise ValueError(f"{path} is not a TwiFF shard: it has columns {sorted(names)}, a shard needs {needed}")
    columns = [*layout, *(name for name in OPTIONAL_COLUMNS if name in names and name not in layout)]
    if META not in names:
        return columns
    meta = schema.field(META).type
    if not pa.types.is_struct(meta):
        return [*columns, META]
    return [*columns, *(f"{META}.{field.name}" for field in meta if field.name in META_FIELDS)]


def read_shard(path: Path, source: str, rows: range = ALL_ROWS, is_last: bool = True) -> Iterator[Batch]:
    """The trajectories among the rows of a file with these numbers, and their quarantine, a batch at a time.

    `source` is the shard's name in both.  A bad row never stops the others, and of equal rows the first is kept.
    Raises ValueError, naming the file, if it is no shard or corrupt, or if rows come after those that are the last.
    """
    first_rows: dict[str, int] = {}
    numbered = _in_range(path, rows, is_last)
    for first in numbered:
        yield _validated(chain([first], islice(numbered, BATCH_ROWS - 1)), source, first_rows)


def _in_range(path: Path, rows: range, is_last: bool) -> Iterator[Numbered]:
    numbered = read_rows(path, rows.start)
    for number, row in numbered:
        if number < rows.stop:
            yield number, row
        elif is_last:
            deque(numbered, maxlen=0)  # a file that could not be counted says here why
            raise ValueError(f"{path} has more than the {rows.stop} rows that were counted: list the source again")
        else:
            return


def write_shard(
    path: Path, source: str, rows_file: Path, quarantine_file: Path, rows: range = ALL_ROWS, is_last: bool = True
) -> dict[str, Any]:
    """`read_shard` to two parquet files, in memory that does not grow with the shard; returns what there was of what.

    The counts are `rows` and `quarantined`, and by kind `categories` and `reasons`, the most frequent first.  Of a
    broken shard nothing is kept: it is one quarantined row, and `broken` says why.
    """
    try:
        return _written(read_shard(path, source, rows, is_last), rows_file, quarantine_file)
    except ValueError as error:
        broken = quarantined(source, RejectedRow(BROKEN_SHARD, str(error)), row=rows.start)
        nothing = (PulledTable.create_empty(), quarantine_table([broken]))
        return _written([nothing], rows_file, quarantine_file) | {"broken": broken["detail"]}


def _written(batches: Iterable[Batch], rows_file: Path, quarantine_file: Path) -> dict[str, Any]:
    reasons, categories = Counter[str](), Counter[str]()
    with _parquet(rows_file, PulledTable) as rows_table, _parquet(quarantine_file, Quarantine) as rejected_table:
        for rows, rejected in batches:
            rows_table.write_table(_arrow(rows))
            rejected_table.write_table(_arrow(rejected))
            categories.update(rows["category"])
            reasons.update(rejected["reason"])
    return {
        "rows": categories.total(),
        "quarantined": reasons.total(),
        "categories": dict(categories.most_common()),
        "reasons": dict(reasons.most_common()),
    }


def _parquet(path: Path, schema: type[dy.Schema]) -> "pq.ParquetWriter":
    import pyarrow.parquet as pq

    return pq.ParquetWriter(path, _arrow(schema.create_empty()).schema, compression="zstd")


def _arrow(table: pl.DataFrame) -> "pa.Table":
    return table.to_arrow(compat_level=pl.CompatLevel.oldest())


def quarantined(source: str, reject: RejectedRow, row: int | None = None, row_id: str | None = None) -> dict[str, Any]:
    """One row of a quarantine table."""
    return {"source": source, "row": row, "row_id": row_id, "reason": reject.reason, "detail": reject.detail}


def quarantine_table(rows: list[dict[str, Any]]) -> dy.DataFrame[Quarantine]:
    return Quarantine.validate(pl.DataFrame(rows, schema=Quarantine.create_empty().schema))


def _validated(batch: Iterable[Numbered], source: str, first_rows: dict[str, int]) -> Batch:
    """The tables of a batch; `first_rows` gets the number of the first row that has each id."""
    accepted: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []  # not the exceptions, whose frames hold the rows
    for number, row in batch:
        try:
            accepted.append(_accepted(row, source, number, first_rows))
        except RejectedRow as reject:
            rejected.append(quarantined(source, reject, row=number))
    rows = PulledTable.validate(pl.DataFrame(accepted, schema=PulledTable.create_empty().schema))
    return rows, quarantine_table(rejected)


def _accepted(
    row: Mapping[str, Any] | RejectedRow, source: str, number: int, first_rows: dict[str, int]
) -> dict[str, Any]:
    """The row of the table.  Raises RejectedRow."""
    if isinstance(row, RejectedRow):
        raise row
    with rejecting("unreadable row"):
        trajectory = parse_row(row, source, number)
        p_t, p_v = source_counts(row)
        meta = row.get(META) or {}
        process, summary = text_about(meta, "Process"), text_about(meta, "Summary")
    first = first_rows.setdefault(trajectory.row_id, number)
    if first != number:
        raise RejectedRow("repeated row", f"has the same content as row {first}")
    # Lists, since polars makes a series of every tuple.
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(trajectory).items()}
    texts = {"process": process, "summary": summary}
    return values | {"row": number, "source_p_t": p_t, "source_p_v": p_v} | texts
