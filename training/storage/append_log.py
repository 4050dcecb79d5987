"""An append-only file of JSON lines that survives kills: what was paid for is written once and found again."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any


class AppendLog:
    """One record a line.  A line torn by a crash is passed over; several processes may append to one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_to = 0
        self._file: IO[bytes] | None = None

    def records(self) -> Iterator[dict[str, Any]]:
        """The whole records that were not yielded before, among them what other processes appended since."""
        if not self.path.exists():
            return
        with self.path.open("rb") as lines:
            lines.seek(self._read_to)
            for line in lines:
                if not line.endswith(b"\n"):
                    return  # still being written, or torn: the next append starts a fresh line
                self._read_to += len(line)
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(record, dict):
                    yield record

    def append(self, record: Mapping[str, Any]) -> None:
        """Hands one record to the operating system, in one write: lines of several processes do not mix."""
        if self._file is None:
            self._file = self._open()
        self._file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> IO[bytes]:
        """For appending, on a fresh line even where a crash left half of one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("a+b", buffering=0)
        if file.tell() and (file.seek(-1, os.SEEK_END), file.read())[1] != b"\n":
            file.write(b"\n")
        return file
