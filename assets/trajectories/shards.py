"""Files of a source, and the shards that they are cut into: at most so many rows of one file, pulled together.

A shard is a partition of every asset that is made of rows, so what the later stages hold in memory is bounded, too.
"""

import fcntl
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from training.storage.artifacts import CURRENT
from training.storage.hashing import digest

SUFFIXES = (".parquet", ".jsonl.gz", ".jsonl", ".json")
MAX_NAME_LENGTH = 150
TAIL_BYTES = 2**20
"""Of a parquet file, which hold its metadata; remote files of no more bytes are downloaded at once."""


class DamagedFileError(OSError):
    """A download is not what the source lists; it is thrown away."""


@dataclass(frozen=True)
class SourceFile:
    """One file of a source.

    `name` is safe as a partition key and as a folder's name; `path` is where the file lies in the source.  `stamp`
    changes when the content may have changed, and costs no reading.
    """

    name: str
    path: str
    stamp: str
    bytes: int


@dataclass(frozen=True)
class Listing:
    """A source's files by name, in order, and its revision: the commit on a hub, else a hash of the stamps."""

    revision: str
    files: Mapping[str, SourceFile]

    @classmethod
    def of(cls, where: str, root: str, files: Iterable[tuple[str, str, int]], revision: str | None = None) -> "Listing":
        """The listing of (path, stamp, bytes) under `root`; what is hidden or no shard by its name is passed over.

        Raises ValueError if there is no file of shards, or if two would have one name.
        """
        listed = []
        for path, stamp, size in sorted(files):
            inside = path.removeprefix(root).lstrip("/")
            if path.endswith(SUFFIXES) and not any(part.startswith(".") for part in inside.split("/")):
                listed.append(SourceFile(shard_name(inside), path, stamp, size))
        if not listed:
            raise ValueError(f"no shard ({', '.join(f'*{suffix}' for suffix in SUFFIXES)}) in {where}")
        by_name = _by_name(listed, where)
        return cls(revision or digest({name: file.stamp for name, file in by_name.items()}), by_name)


@dataclass(frozen=True)
class Shard:
    """Rows of a source file, by their numbers from 0; `is_last`: no rows of the file come after these."""

    name: str
    file: SourceFile
    rows: range
    is_last: bool

    @property
    def path(self) -> str:
        return self.file.path

    @property
    def stamp(self) -> str:
        return self.version(self.file.stamp)

    def version(self, file_version: str) -> str:
        """The version of its rows in this version of the file; the file's own where it holds no others."""
        if self.rows.start == 0 and self.is_last:
            return file_version
        return digest([file_version, self.rows.start, self.rows.stop])


Named = TypeVar("Named", SourceFile, Shard)


def cut_into_shards(
    files: Iterable[SourceFile], rows: Mapping[str, int], rows_per_partition: int, where: str
) -> dict[str, Shard]:
    """The shards of the files by name, in order; `rows` has the number of rows of each file whose rows can be counted.

    A file's first shard has the file's name, others the number of their first row, too: a file that grows keeps them.
    Raises ValueError if two shards would have one name.
    """
    shards = []
    for file in files:
        firsts = range(0, max(1, rows.get(file.name, 1)), rows_per_partition)
        for first in firsts:
            name = f"{file.name}--rows-{first:08}" if first else file.name
            shards.append(Shard(name, file, range(first, first + rows_per_partition), first == firsts[-1]))
    return _by_name(shards, where)


def _by_name(items: Iterable[Named], where: str) -> dict[str, Named]:
    """The items by name, in order."""
    by_name: dict[str, Named] = {}
    for item in items:
        if (other := by_name.get(item.name)) is not None:
            raise ValueError(
                f"{other.path} and {item.path} in {where} would both be shard {item.name!r}: rename one of them, or "
                "name the wanted files with a pattern"
            )
        by_name[item.name] = item
    return dict(sorted(by_name.items()))


def shard_name(file: str) -> str:
    """A name for the file at this path: `/` becomes `--`, and what partition keys or folders cannot hold `_`."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", file.removesuffix(suffix_of(file)).replace("/", "--"))
    name = re.sub(r"\.{2,}", ".", name).lstrip(".")  # "..." stands between the ends of a range of partitions
    if name in ("", CURRENT):
        name = f"shard_{name}"
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[:MAX_NAME_LENGTH]}-{digest(file)}"


def suffix_of(file: str) -> str:
    return next((suffix for suffix in SUFFIXES if file.endswith(suffix)), "")


def download_file(remote: SourceFile, scratch: Path, download: Callable[[Path], None]) -> Path:
    """The file under `scratch`, downloaded if need be; other versions of it are removed.

    `download` completes the partial file at its path, which may hold what a killed run left, and raises
    DamagedFileError if the outcome is wrong.  Processes that want the same file take turns.
    """
    folder = scratch / remote.name
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{digest(remote.stamp)}{suffix_of(remote.path)}"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if file.exists():
            return file
        partial = folder / f"{file.name}.partial"
        for old in folder.iterdir():
            if old.name not in ("lock", partial.name):
                old.unlink()
        try:
            download(partial)
        except DamagedFileError:
            partial.unlink(missing_ok=True)
            raise
        partial.replace(file)
    return file
