"""The rows that a training program reads: a table of ours whose clips were probed, or any file of records.

Records may have each layout that `future-l1 inspect --records` shows (training/data/records.py).  All are read and
checked before a model is loaded; a clip is opened when training first comes to it.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.data.dialogue import assistant_pieces, user_pieces
from training.data.json_rows import Numbered, json_rows
from training.data.parquet_rows import parquet_rows
from training.data.records import FIELDS, name_of, record_row
from training.data.rejection import RejectedRow
from training.data.row_clips import clip_path
from training.data.row_fields import bounded_text, unique_id
from training.data.trajectory import has_words
from training.runtime.errors import PermanentError
from training.storage.parquet import column_names, read_parquet

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".json")
PROBED_COLUMNS = {
    "row_id", "question", "reasoning", "answer", "observed", "future", "path", "frame_count", "reader",
}  # fmt: skip


@dataclass(frozen=True)
class TrainingSet:
    """`rows` to train on; `rejected`: {"row_id", "reason"} of each record that is none."""

    rows: list[dict[str, Any]]
    rejected: list[dict[str, str]]


def read_training_set(path: Path, clips: Path | None) -> TrainingSet:
    """The rows of a file.  Their clips lie inside the folder `clips`; where it is None, relative to the file.

    Raises PermanentError, naming the file, where it cannot be read or none of its rows is usable.
    """
    if clips is not None and not clips.is_dir():
        raise PermanentError(f"clips is {clips}, and that is no folder")
    if not path.name.endswith(SUFFIXES):
        raise PermanentError(f"data is {path}, and a training set is a file {', '.join(f'*{s}' for s in SUFFIXES)}")
    try:
        training_set = _read_probed(path) if clips is None else None
        training_set = training_set or _read_records(path, clips)
    except (ValueError, FileNotFoundError) as error:
        raise PermanentError(str(error)) from error
    if not training_set.rows:
        rejected = training_set.rejected
        if not rejected:
            raise PermanentError(f"{path} holds no rows: curate first")
        raise PermanentError(f"{path}: none of {len(rejected)} rows is usable; the first: {rejected[0]['reason']}")
    return training_set


def _read_probed(path: Path) -> TrainingSet | None:
    """The rows of a table of ours; None where a file is none."""
    if path.suffix != ".parquet" or not set(column_names(path)) >= PROBED_COLUMNS:
        return None
    table = read_parquet(path)
    if any(table.select(PROBED_COLUMNS).null_count().row(0)):
        return None
    return TrainingSet(table.to_dicts(), [])


def _read_records(path: Path, clips: Path | None) -> TrainingSet:
    rows: list[dict[str, Any]] = []
    rejected: list[dict[str, str]] = []
    ids: Counter[str] = Counter()
    for number, record in _numbered(path):
        row_id = unique_id(str(bounded_text(name_of(record, number))), ids)
        try:
            rows.append(_row(record, number, path.parent, clips) | {"row_id": row_id})
        except ValueError as error:
            rejected.append({"row_id": row_id, "reason": f"{path.name}, row {number}: {error}"})
    if rows and not any(map(_has_clip, rows)):
        raise ValueError(
            f"{path}: not one clip of its {len(rows)} rows is there, as {rows[0].get('video', rows[0]['path'])}: "
            "`video` is a path relative to the file, or inside the folder that `clips` in the config names"
        )
    return TrainingSet(rows, rejected)


def _numbered(path: Path) -> Iterator[Numbered]:
    if path.suffix != ".parquet":
        return json_rows(path)

    def columns(schema: "pa.Schema") -> list[str]:
        if not {"question", "conversations"} & set(schema.names):
            raise ValueError(f"{path} has neither a column `question` nor `conversations`; it has {schema.names}")
        return [name for name in schema.names if name in FIELDS]

    return parquet_rows(path, columns)


def _row(record: dict[str, Any] | RejectedRow, number: int, folder: Path, clips: Path | None) -> dict[str, Any]:
    """The row of a record.  Raises ValueError where it cannot be rendered, or has no answer."""
    if isinstance(record, RejectedRow):
        raise record
    row = record_row({name: value for name, value in record.items() if value is not None}, number, folder, clips)
    user_pieces(row["question"], len(row["frames"] or row["observed"]))
    assistant_pieces(row["reasoning"], row["answer"])
    if not has_words(row["question"]):
        raise RejectedRow("empty question", "training needs one")
    if not row["answer"].strip():
        raise RejectedRow("empty answer", "training needs one")
    return row


def _has_clip(row: dict[str, Any]) -> bool:
    """Whether the row's file is there, or it needs none."""
    if row["frame_count"] is not None:
        return True
    try:
        return clip_path(row).is_file()
    except (ValueError, OSError):
        return False
