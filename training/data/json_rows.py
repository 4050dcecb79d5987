"""Rows of JSON files that nobody here made, in memory that does not grow with the file: a bad row is lost alone.

A line of JSON that cannot be read is one rejected row; the lines after it are read.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from training.data.rejection import RejectedRow

LONGEST_RECORD = 16 * 2**20
"""Bytes of a JSON line, characters of a record in a JSON list."""
CHUNK = 2**20
MAX_ROWS = 10_000_000
"""Of a file: partitions are made from the number of its rows."""
MAX_UNPACKED_RATIO, UNPACKED_SLACK = 200, 64 * 2**20
"""The growth of packed bytes, and bytes beyond it: text grows tenfold, and what grows far more is no data."""

_SEPARATORS = re.compile(r"[\s,]*")
# More digits than Python turns into a number would end the file, and are no number that a row may hold.
_DECODER = json.JSONDecoder(parse_int=lambda digits: int(digits) if len(digits) < 20 else float(digits))

Numbered = tuple[int, dict[str, Any] | RejectedRow]
"""A row's number from 0 (of JSON lines, the line's), and the row or why it is none."""


def json_rows(path: Path, first: int = 0) -> Iterator[Numbered]:
    """JSON lines, also in a `.gz`; from a `.json` file also one list of records, or one record.

    Rows before number `first` are passed over without being parsed, where they are lines.  Raises ValueError, naming
    the file, for what cannot be read to its end.
    """
    for number, item in _items(path):
        if number < first:
            continue
        if not isinstance(item, bytes):
            yield number, item
        elif item.strip():
            yield number, _record(item, number)


def count_json_rows(path: Path) -> int:
    """The number of lines, or of the records of a list.  Raises ValueError as `json_rows` does."""
    return sum(1 for _ in _items(path))


def _items(path: Path) -> Iterator[tuple[int, bytes | dict[str, Any] | RejectedRow]]:
    """Each line, or each record of a list, and its number."""
    try:
        with _opened(path) as file:
            in_list = path.name.endswith(".json") and not _has_lines(file)
            for number, item in enumerate(_list(path) if in_list else _lines(file, most_unpacked(path.stat().st_size))):
                if number >= MAX_ROWS:
                    raise OSError(f"it has more than {MAX_ROWS:,} rows: make several files of it")
                yield number, item
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read to its end: {error}") from error


def most_unpacked(packed: int) -> int:
    """The most bytes that so many packed bytes may unpack to."""
    return UNPACKED_SLACK + MAX_UNPACKED_RATIO * packed


def _opened(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.name.endswith(".gz") else path.open("rb")


def _lines(file: IO[bytes], most: int) -> Iterator[bytes | RejectedRow]:
    number = 0
    while line := file.readline(LONGEST_RECORD + 1):
        number += 1
        if len(line) > LONGEST_RECORD:
            while line and not line.endswith(b"\n"):
                line = file.readline(CHUNK)
                _check_size(file, most)
            yield RejectedRow("unreadable row", f"line {number} is longer than {LONGEST_RECORD} bytes")
        else:
            yield line
        _check_size(file, most)


def _check_size(file: IO[bytes], most: int) -> None:
    if file.tell() > most:
        raise OSError(f"it unpacks to more than {most} bytes, far more than text would")


def _record(line: bytes, number: int) -> dict[str, Any] | RejectedRow:
    try:
        record = _DECODER.decode(line.removeprefix(b"\xef\xbb\xbf").decode())
    except (ValueError, RecursionError) as error:
        return RejectedRow("unreadable row", f"line {number + 1}: {error}")
    if isinstance(record, dict):
        return record
    return RejectedRow("unreadable row", f"line {number + 1} holds a {type(record).__name__}, not a record")


def _has_lines(file: IO[bytes]) -> bool:
    """Whether the first line is a record of its own; the file is at its start again afterwards."""
    first = file.readline(LONGEST_RECORD)
    file.seek(0)
    return isinstance(_record(first, 0), dict)


def _list(path: Path) -> Iterator[dict[str, Any] | RejectedRow]:
    """The records of one JSON list, or the one record that a file holds.

    Where such a file is malformed nobody knows where the next record begins: ValueError.
    """
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
                record, end = _DECODER.raw_decode(text, at)
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
            if not isinstance(record, dict):
                record = RejectedRow("unreadable row", f"record {number + 1} is a {type(record).__name__}")
            yield record
            number, at = number + 1, end


def _after_separators(text: str, at: int) -> int:
    match = _SEPARATORS.match(text, at)
    assert match is not None  # it matches nothing, too
    return match.end()
