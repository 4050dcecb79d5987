"""Files that survive the process that writes them: whole or absent, or append-only logs of JSON lines."""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
"""A disk that is full, or that may not be written: no further try helps, until somebody does something."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A fresh file to write, which takes the place of `path` when the context ends without an error.

    For one writer at a time: the next one overwrites what a killed one left.
    """
    fresh = path.with_name(f".{path.name}.fresh")
    yield fresh
    fresh.replace(path)


def write_json(path: Path, value: Any, *, sort_keys: bool = False, allow_nan: bool = False) -> None:
    """Writes JSON atomically.  Raises ValueError for NaN where it is not allowed: an unknown number is null."""
    with atomic_write(path) as fresh:
        text = json.dumps(value, indent=1, sort_keys=sort_keys, allow_nan=allow_nan)
        fresh.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def atomic_replace_dir(folder: Path) -> Iterator[Path]:
    """A fresh folder to fill, which takes the place of `folder` when the context ends without an error.

    A process that is killed leaves the old folder, the new one, or none; never half of one.
    """
    fresh, old = folder.with_name(f".{folder.name}.fresh"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    yield fresh
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def on_this_machine(path: Path) -> Path:
    """The file of this machine of a training: on a network file system, what several append to one could mix."""
    machine = os.environ.get("GROUP_RANK", "0")  # torchrun's number of it
    return path if machine == "0" else path.with_name(f"{path.stem}.{machine}{path.suffix}")


class AppendLog:
    """One record a line.  A line torn by a crash is passed over; several processes of one machine may append to a file.

    None of it is held in memory: `lines` says where a record lies, and `read` reads it there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_to = 0
        self._file: IO[bytes] | None = None

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """The whole lines that were not yielded before, among them what other processes appended since, each with its
        offset."""
        if not self.path.exists():
            return
        with self.path.open("rb") as lines:
            lines.seek(self._read_to)
            for line in lines:
                if not line.endswith(b"\n"):
                    return  # still being written, or torn: the next append starts a fresh line
                offset, self._read_to = self._read_to, self._read_to + len(line)
                yield offset, line

    def records(self) -> Iterator[dict[str, Any]]:
        """The records of `lines`; a line that holds none is passed over."""
        return (record for _, line in self.lines() if (record := _parsed(line)) is not None)

    def read(self, offsets: Sequence[int]) -> Iterator[dict[str, Any] | None]:
        """The records at these offsets, in this order; None for a line that holds none."""
        if not offsets:
            return  # there may be no file yet
        with self.path.open("rb") as lines:
            for offset in offsets:
                lines.seek(offset)
                yield _parsed(lines.readline())

    def append(self, record: Mapping[str, Any]) -> int:
        """Hands one record to the operating system, in one write: lines of several processes do not mix.

        Returns its offset.  Raises OSError where not all of it could be written: the disk is full.
        """
        file = self._file = self._file or self._open()
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        written = file.write(line)
        if written < len(line):  # the rest would begin another line where several processes append
            self.close()
            raise OSError(errno.ENOSPC, f"only {written} of a record's {len(line)} bytes were written", str(self.path))
        return file.tell() - len(line)

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


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
