"""A shard's rows, a batch at a time: memory stays flat however large the file is.

Of parquet only the columns are read that a trajectory is made of, so that embedded images cost nothing.  A line of
JSON that cannot be read is one rejected row; the lines after it are read.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from training.data.trajectory import GIVEN_COLUMNS, RejectedRow

if TYPE_CHECKING:
    import pyarrow as pa

LAYOUTS = (
    ("video", "conversations", "image", "reasoning_image"),  # Future-L1-50K
    ("video", "conversations", "frames", "recon_frames"),  # TwiFF's training files
    ("video", "question", "answer", "question_images_index", "reasoning_images_index"),  # TwiFF-2.7M
)
OPTIONAL_COLUMNS = ("answer", *GIVEN_COLUMNS)
META, META_FIELDS = "meta_data", ("classification", "start", "end")

BATCH_ROWS = 2048
LONGEST_RECORD = 16 * 2**20
"""Bytes of a JSON line, characters of a record in a JSON list."""
CHUNK = 2**20

_SEPARATORS = re.compile(r"[\s,]*")

Numbered = tuple[int, dict[str, Any] | RejectedRow]
"""A row's number from 0 (of JSON lines, the line's), and the row or why it is none."""


def read_rows(path: Path) -> Iterator[list[Numbered]]:
    """The rows of a shard in batches.  Raises ValueError, naming the file, for what is no shard or is corrupt."""
    if path.name.endswith(".parquet"):
        yield from _parquet(path)
        return
    try:
        rows = _json(path)
        while batch := list(islice(rows, BATCH_ROWS)):
            yield batch
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read to its end: {error}") from error


def _parquet(path: Path) -> Iterator[list[Numbered]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        # With a buffer, pages are read as they are needed instead of whole column chunks.
        with pq.ParquetFile(path, buffer_size=CHUNK) as file:
            columns = _columns(path, file.schema_arrow)
            for batch in file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
                yield list(enumerate(_records(batch), number))
                number += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as parquet: {error}") from error


def _columns(path: Path, schema: "pa.Schema") -> list[str]:
    """The columns to read, of `meta_data` only three fields.  Raises ValueError if they make no layout."""
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


def _records(batch: "pa.RecordBatch") -> Iterator[dict[str, Any] | RejectedRow]:
    try:
        yield from batch.to_pylist()
    except ValueError:  # a value that Python cannot hold, as text that is not UTF-8: its row is lost, no other
        for number in range(len(batch)):
            try:
                yield batch.slice(number, 1).to_pylist()[0]
            except ValueError as error:
                yield RejectedRow("unreadable row", f"{error}"[:200])


def _json(path: Path) -> Iterator[Numbered]:
    """JSON lines; from a `.json` file also one list of records, or one record."""
    with _opened(path) as file:
        if path.name.endswith(".json") and not _has_lines(file):
            yield from _list(path)
        else:
            yield from _lines(file)


def _opened(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.name.endswith(".gz") else path.open("rb")


def _lines(file: IO[bytes]) -> Iterator[Numbered]:
    number = -1
    while line := file.readline(LONGEST_RECORD + 1):
        number += 1
        if len(line) > LONGEST_RECORD:
            while line and not line.endswith(b"\n"):
                line = file.readline(CHUNK)
            yield number, RejectedRow("unreadable row", f"line {number + 1} is longer than {LONGEST_RECORD} bytes")
        elif line.strip():
            yield number, _record(line, number)


def _record(line: bytes, number: int) -> dict[str, Any] | RejectedRow:
    try:
        record = json.loads(line.removeprefix(b"\xef\xbb\xbf").decode())
    except (ValueError, RecursionError) as error:
        return RejectedRow("unreadable row", f"line {number + 1}: {error}"[:200])
    if isinstance(record, dict):
        return record
    return RejectedRow("unreadable row", f"line {number + 1} holds a {type(record).__name__}, not a record")


def _has_lines(file: IO[bytes]) -> bool:
    """Whether the first line is a record of its own; the file is at its start again afterwards."""
    first = file.readline(LONGEST_RECORD)
    file.seek(0)
    return isinstance(_record(first, 0), dict)


def _list(path: Path) -> Iterator[Numbered]:
    """The records of one JSON list, or the one record that a file holds.

    Where such a file is malformed nobody knows where the next record begins: ValueError.
    """
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8-sig") as file:
        text, number = file.read(CHUNK), 0
        at = _after_separators(text, 0)
        inside = text.startswith("[", at)
        at += inside
        while True:
            at = _after_separators(text, at)
            if inside and text.startswith("]", at):
                return
            try:
                record, end = decoder.raw_decode(text, at)
            except (ValueError, RecursionError) as error:
                if len(text) - at <= LONGEST_RECORD and (more := file.read(CHUNK)):
                    text, at = text[at:] + more, 0
                    continue
                if at == len(text) and not inside:
                    return
                raise ValueError(
                    f"{path}: record {number + 1} is not JSON ({error}), so the records after it cannot be found; one "
                    "record a line (.jsonl) would lose that one only"
                ) from error
            found = record if isinstance(record, dict) else None
            yield number, found or RejectedRow("unreadable row", f"record {number + 1} is a {type(record).__name__}")
            number, at = number + 1, end


def _after_separators(text: str, at: int) -> int:
    match = _SEPARATORS.match(text, at)
    assert match is not None  # it matches nothing, too
    return match.end()
