"""A source's shards: what they are called, what they are a version of, and where a downloaded one is kept."""

import fcntl
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from training.storage.artifacts import CURRENT
from training.storage.hashing import digest

SUFFIXES = (".parquet", ".jsonl.gz", ".jsonl", ".json")
LONGEST_NAME = 150


class DamagedShardError(OSError):
    """What was downloaded is not what the source lists; the download is thrown away."""


@dataclass(frozen=True)
class Shard:
    """One file of a source.

    `name` is safe as a partition key and as a folder's name; `file` is the file's path where it lies.  `stamp` changes
    when the content may have changed, and costs no reading.
    """

    name: str
    file: str
    stamp: str
    bytes: int


@dataclass(frozen=True)
class Listing:
    """A source's shards by name, in order, and its revision: the commit on a hub, else a hash of the stamps."""

    revision: str
    shards: Mapping[str, Shard]


def listed(where: str, root: str, files: Iterable[tuple[str, str, int]], revision: str | None = None) -> Listing:
    """The listing of (path, stamp, bytes) under `root`; what is hidden or no shard by its name is passed over.

    Raises ValueError if there is no shard, or if two would have one name.
    """
    shards: dict[str, Shard] = {}
    for file, stamp, size in sorted(files):
        inside = file.removeprefix(root).lstrip("/")
        if not file.endswith(SUFFIXES) or any(part.startswith(".") for part in inside.split("/")):
            continue
        shard = Shard(shard_name(inside), file, stamp, size)
        if (other := shards.get(shard.name)) is not None:
            raise ValueError(
                f"{other.file} and {file} in {where} would both be shard {shard.name!r}: rename one of them, or name "
                "the wanted files with a pattern"
            )
        shards[shard.name] = shard
    if not shards:
        raise ValueError(f"no shard ({', '.join(f'*{suffix}' for suffix in SUFFIXES)}) in {where}")
    shards = dict(sorted(shards.items()))
    return Listing(revision or digest({name: shard.stamp for name, shard in shards.items()}), shards)


def shard_name(file: str) -> str:
    """A name for the file at this path: `/` becomes `--`, and what partition keys or folders cannot hold `_`."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", file.removesuffix(suffix_of(file)).replace("/", "--"))
    name = re.sub(r"\.{2,}", ".", name).lstrip(".")  # "..." stands between the ends of a range of partitions
    if name in ("", CURRENT):
        name = f"shard_{name}"
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}-{digest(file)}"


def suffix_of(file: str) -> str:
    return next((suffix for suffix in SUFFIXES if file.endswith(suffix)), "")


def downloaded(shard: Shard, scratch: Path, download: Callable[[Path], None]) -> Path:
    """The shard's file under `scratch`, downloaded if need be; other versions of the shard are removed.

    `download` completes the partial file at the path that it gets, which may hold what a killed run left, and raises
    DamagedShardError if the outcome is wrong.  Processes that want the same shard take turns.
    """
    folder = scratch / shard.name
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{digest(shard.stamp)}{suffix_of(shard.file)}"
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
        except DamagedShardError:
            partial.unlink(missing_ok=True)
            raise
        partial.replace(file)
    return file
