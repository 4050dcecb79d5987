"""Rows of a parquet file that nobody here made, in memory that neither the file's size nor what it unpacks to decides.

A few kilobytes of parquet may say one long text for each of many rows: then texts stay in their dictionaries, which is
slower by far, until it is known how much memory their rows need.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from training.data.json_rows import CHUNK, LONGEST_RECORD, MAX_ROWS, Numbered, most_unpacked
from training.data.rejection import RejectedRow, rejecting

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_ROWS, BATCH_BYTES = 2048, 2**26
"""Read at once; bytes of a column whose rows share texts."""
MAX_VALUES_OF_A_ROW, VALUES_SLACK = 64, 2**20
"""Values in one column, on average over a row group's rows, beyond the first: nested lists may hold any number."""
MAX_FIXED_BYTES = 64
"""Bytes of a value where all values have the same: they are not kept in a dictionary."""


def parquet_rows(
    path: Path, columns: Callable[["pa.Schema"], list[str]], longest: int = LONGEST_RECORD, first: int = 0
) -> Iterator[Numbered]:
    """The rows from number `first` on, of the columns that `columns` chooses; of more than `longest` bytes: rejected.

    Raises ValueError, naming the file, for what is corrupt, names a column twice, holds more values or rows than data
    does, or lacks columns (as `columns` says).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            names, metadata = file.schema_arrow.names, file.metadata
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{path} has columns of the same name: {repeated}")
            _check_rows(metadata, path, path.stat().st_size)
            chosen = columns(file.schema_arrow)
        texts = _texts(path, metadata, chosen)
        # With a buffer, pages are read as they are needed instead of whole column chunks.
        with (
            pq.ParquetFile(path, buffer_size=CHUNK) as unpacked,
            pq.ParquetFile(path, buffer_size=CHUNK, read_dictionary=list(texts)) as packed,
        ):
            for group in range(metadata.num_row_groups):
                if 0 < (rows_of_group := metadata.row_group(group).num_rows) <= first - number:
                    number += rows_of_group
                    continue
                shared = max((_longest_shared(packed, group, *leaf) for leaf in texts.items()), default=0)
                file = packed if shared > longest else unpacked
                rows = BATCH_ROWS if file is packed else min(BATCH_ROWS, max(1, BATCH_BYTES // max(1, shared)))
                for batch in file.iter_batches(rows, row_groups=[group], columns=chosen, use_threads=False):
                    passed = min(len(batch), max(0, first - number))
                    number += passed
                    for row in _rows(batch.slice(passed), longest):
                        yield number, row
                        number += 1
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as parquet: {error}") from error


def count_parquet_rows(file: Path | IO[bytes], path: str, size: int) -> int:
    """The number of rows that the metadata of the file at `path` state; of its `size` bytes `file` may lack the first.

    Raises ValueError, naming the file, for what is no parquet, or states more rows than data has.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as parquet: {error}") from error
    _check_rows(metadata, path, size)
    return int(metadata.num_rows)


def _check_rows(metadata: "pq.FileMetaData", path: Path | str, size: int) -> None:
    if metadata.num_rows > size:
        raise ValueError(f"{path} says that it holds {metadata.num_rows} rows in {size} bytes")
    if metadata.num_rows > MAX_ROWS:
        raise ValueError(f"{path} holds {metadata.num_rows:,} rows, more than {MAX_ROWS:,}: make several files of it")


def _longest_shared(packed: "pq.ParquetFile", group: int, path: str, leaf: int) -> int:
    """The bytes of the longest text that rows of a group may share in a leaf; 0 where they share none, or are small."""
    import pyarrow.compute as pc

    column = packed.metadata.row_group(group).column(leaf)
    size: int = column.total_uncompressed_size
    if size * BATCH_ROWS <= BATCH_BYTES or not column.has_dictionary_page:
        return 0
    first = next(packed.iter_batches(BATCH_ROWS, row_groups=[group], columns=[path], use_threads=False))
    array = first.column(0)
    while parts := _parts(array):
        array = parts[0]
    return int(pc.max(pc.binary_length(array.dictionary)).as_py()) if len(array.dictionary) else size


def _texts(path: Path, metadata: "pq.FileMetaData", chosen: list[str]) -> dict[str, int]:
    """The chosen leaves that hold texts or bytes, by path.  Raises ValueError for leaves that hold too much."""
    texts = {}
    for number in range(len(metadata.schema)):
        leaf = metadata.schema.column(number)
        if not any(leaf.path == name or leaf.path.startswith(f"{name}.") for name in chosen):
            continue
        if leaf.physical_type == "FIXED_LEN_BYTE_ARRAY" and leaf.length > MAX_FIXED_BYTES:
            raise ValueError(f"{path}: every value of column {leaf.path} has {leaf.length} bytes")
        for group in (metadata.row_group(i) for i in range(metadata.num_row_groups)):
            column = group.column(number)
            if column.num_values > VALUES_SLACK + MAX_VALUES_OF_A_ROW * group.num_rows:
                raise ValueError(f"{path}: {leaf.path} holds {column.num_values} values in {group.num_rows} rows")
            if column.total_uncompressed_size > most_unpacked(column.total_compressed_size):
                raise ValueError(f"{path}: {leaf.path} unpacks to {column.total_uncompressed_size} bytes")
            if "DELTA_BYTE_ARRAY" in column.encodings:  # each text begins as another does: any number of long ones
                raise ValueError(f"{path}: {leaf.path} is encoded as DELTA_BYTE_ARRAY: write it plain or by dictionary")
        if leaf.physical_type == "BYTE_ARRAY" and leaf.logical_type.type != "DECIMAL":
            texts[leaf.path] = number
    return texts


def _rows(batch: "pa.RecordBatch", longest: int) -> Iterator[dict[str, Any] | RejectedRow]:
    """The batch's rows, as many at once as need at most `longest` bytes together."""
    needed = sum(_unpacked_bytes(column) for column in batch.columns)
    if needed <= longest:
        yield from _records(batch)
    elif len(batch) == 1:
        yield RejectedRow("unreadable row", f"it holds {needed} bytes; at most {longest} are read")
    else:
        half = len(batch) // 2
        yield from _rows(batch.slice(0, half), longest)
        yield from _rows(batch.slice(half), longest)


def _unpacked_bytes(array: "pa.Array") -> int:
    """The bytes that an array's values need once they are out of their dictionary."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(array.type):
        lengths = pc.binary_length(array.dictionary).take(array.indices)
        return int(pc.sum(lengths.cast(pa.int64())).as_py() or 0)
    if parts := _parts(array):
        return sum(_unpacked_bytes(part) for part in parts)
    return int(array.nbytes)


def _parts(array: "pa.Array") -> "list[pa.Array]":
    """The arrays that a nested one consists of."""
    import pyarrow as pa

    if pa.types.is_struct(array.type):
        return list(array.flatten())
    if pa.types.is_map(array.type):
        inside = slice(array.offsets[0].as_py(), array.offsets[-1].as_py())
        return [array.keys[inside], array.items[inside]]
    lists = ("list", "large_list", "fixed_size_list", "list_view", "large_list_view")
    return [array.flatten()] if any(getattr(pa.types, f"is_{kind}")(array.type) for kind in lists) else []


def _records(batch: "pa.RecordBatch") -> Iterator[dict[str, Any] | RejectedRow]:
    try:
        yield from batch.to_pylist()
    except Exception:  # a value that Python cannot hold: its row is lost, no other
        for number in range(len(batch)):
            try:
                with rejecting("unreadable row"):
                    record = batch.slice(number, 1).to_pylist()[0]
            except RejectedRow as rejected:
                yield rejected
            else:
                yield record
