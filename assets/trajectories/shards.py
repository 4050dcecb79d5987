"""Where a source is, and its shards: locations as a profile writes them, names and stamps of shards, and downloads.

A location is a local path, an fsspec URL, or a dataset repository on a hub.
"""

import fcntl
import glob
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from training.storage.artifacts import CURRENT
from training.storage.hashing import digest

HUB = "hf://"
SUFFIXES = (".parquet", ".jsonl.gz", ".jsonl", ".json")
MAX_NAME_LENGTH = 150

_HUB = re.compile(
    r"hf://datasets/(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>refs/convert/[\w.-]+|refs/pr/\d+|[^/@\s]+)(?:/(?P<files>.*))?"
)


@dataclass(frozen=True)
class HubLocation:
    """A dataset repository at a revision; `files` is a folder, a file or a pattern in it ("" for all of it)."""

    repo: str
    revision: str
    files: str


def hub_location(location: str) -> HubLocation:
    """Reads `hf://datasets/ORG/NAME@REVISION/files*`; raises ValueError that says what is missing."""
    match = _HUB.fullmatch(location)
    if match is None:
        raise ValueError(
            f"{location!r} is no dataset repository: want hf://datasets/ORG/NAME@REVISION, with a commit, a tag or a "
            "branch as the revision, and after it, if not all files are meant, /folder or /pattern*.parquet"
        )
    return HubLocation(match["repo"], match["revision"], (match["files"] or "").strip("/"))


def is_url(location: str) -> bool:
    return "://" in location


def local_path(location: str) -> Path | None:
    """The path that a location on this machine is, or None for one elsewhere."""
    return Path(location.removeprefix("file://")) if not is_url(location.removeprefix("file://")) else None


def any_remote(*locations: str) -> bool:
    """Whether one of the locations is not a local path."""
    return any(local_path(location) is None for location in locations)


def valid_location(location: str | Path) -> str:
    """The location as text.

    Raises ValueError for an unknown protocol, a hub location that pins no revision, and a URL that carries a password.
    """
    text = str(location)
    if not text.strip() or "\0" in text:
        raise ValueError(f"a location is a path or a URL; found {text!r}")
    if text.startswith(HUB):
        hub_location(text)
    elif is_url(text):
        import fsspec

        protocol = text.split("://")[0].split("::")[0]
        if protocol not in fsspec.available_protocols():
            raise ValueError(f"{text!r} has an unknown protocol {protocol!r}: want a path, hf:// or what fsspec reads")
        if urlsplit(text).password:
            raise ValueError(f"{text.split('://')[0]}://… carries a password: credentials belong in the environment")
    return text


def pattern_root(pattern: str) -> str:
    """The folder above the first part of a path that has a wildcard."""
    parts = pattern.split("/")
    return "/".join(parts[: next(number for number, part in enumerate(parts) if glob.has_magic(part))])


class DamagedShardError(OSError):
    """A download is not what the source lists; it is thrown away."""


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

    @classmethod
    def of(cls, where: str, root: str, files: Iterable[tuple[str, str, int]], revision: str | None = None) -> "Listing":
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
                    f"{other.file} and {file} in {where} would both be shard {shard.name!r}: rename one of them, or "
                    "name the wanted files with a pattern"
                )
            shards[shard.name] = shard
        if not shards:
            raise ValueError(f"no shard ({', '.join(f'*{suffix}' for suffix in SUFFIXES)}) in {where}")
        shards = dict(sorted(shards.items()))
        return cls(revision or digest({name: shard.stamp for name, shard in shards.items()}), shards)


def shard_name(file: str) -> str:
    """A name for the file at this path: `/` becomes `--`, and what partition keys or folders cannot hold `_`."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", file.removesuffix(suffix_of(file)).replace("/", "--"))
    name = re.sub(r"\.{2,}", ".", name).lstrip(".")  # "..." stands between the ends of a range of partitions
    if name in ("", CURRENT):
        name = f"shard_{name}"
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[:MAX_NAME_LENGTH]}-{digest(file)}"


def suffix_of(file: str) -> str:
    return next((suffix for suffix in SUFFIXES if file.endswith(suffix)), "")


def download_shard(shard: Shard, scratch: Path, download: Callable[[Path], None]) -> Path:
    """The shard's file under `scratch`, downloaded if need be; other versions of the shard are removed.

    `download` completes the partial file at its path, which may hold what a killed run left, and raises
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
