"""Where shards come from: a folder, an fsspec URL, or a dataset repository on a hub, behind one small protocol.

A source lists its shards without reading them, and fetches one of them as a local file.
"""

import glob
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from assets.trajectories.hub import HubSource
from assets.trajectories.shards import (
    HUB,
    DamagedShardError,
    Listing,
    Shard,
    download_shard,
    local_path,
    pattern_root,
)
from training.storage.hashing import digest, file_digest


class Source(Protocol):
    """A place that has shards."""

    def listing(self) -> Listing:
        """The current shards; ValueError that says what to do if there is none, or if two have one name."""
        ...

    def version(self, shard: Shard) -> str:
        """The version of the shard's content."""
        ...

    def fetch(self, shard: Shard, scratch: Path) -> AbstractContextManager[Path]:
        """The shard as a local file; a remote one is cached under `scratch`."""
        ...


def open_source(location: str) -> Source:
    """The source at a location that `SourceSettings` accepted."""
    if location.startswith(HUB):
        return HubSource(location)
    path = local_path(location)
    return UrlSource(location) if path is None else LocalSource(path)


class LocalSource:
    """Shards in a folder, or those that match a pattern; a shard's file is used in place."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()

    def listing(self) -> Listing:
        if self._path.is_dir():
            root, paths = self._path, list(self._path.iterdir())
        elif self._path.is_file() or not glob.has_magic(str(self._path)):
            root, paths = self._path.parent, [self._path]
        else:
            root = next(parent for parent in self._path.parents if parent.is_dir())  # `[` there is no pattern
            paths = list(root.glob(str(self._path.relative_to(root))))
        stats = [(str(path), path.stat()) for path in paths if path.is_file()]
        files = [(path, f"{stat.st_size}-{stat.st_mtime_ns}", stat.st_size) for path, stat in stats]
        return Listing.of(str(self._path), str(root), files)

    def version(self, shard: Shard) -> str:
        try:
            return file_digest(Path(shard.file))
        except OSError:  # which the pull says of this shard alone
            return digest([shard.stamp, "unreadable"])

    @contextmanager
    def fetch(self, shard: Shard, scratch: Path) -> Iterator[Path]:
        yield Path(shard.file)


class UrlSource:
    """Shards right under an fsspec URL, or those that its pattern names.

    A shard's version is its stamp, an entity tag or time of change with the size, so that nothing is downloaded to
    see that it is the same.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._fs, self._path = filesystem(url)

    def listing(self) -> Listing:
        self._fs.invalidate_cache()  # else a shard that appeared would not be seen
        if self._fs.isdir(self._path):
            root, entries = self._path, self._fs.ls(self._path, detail=True)
        elif glob.has_magic(self._path):
            root, entries = pattern_root(self._path), list(self._fs.glob(self._path, detail=True).values())
        else:
            root = self._path.rpartition("/")[0]  # not PurePosixPath: the slashes of http:// are two
            entries = [self._fs.info(self._path)] if self._fs.isfile(self._path) else []
        infos = [info for info in entries if info["type"] == "file"]
        files = [(info["name"], url_stamp(info), int(info.get("size") or 0)) for info in infos]
        return Listing.of(self._url, root, files)

    def version(self, shard: Shard) -> str:
        return shard.stamp

    @contextmanager
    def fetch(self, shard: Shard, scratch: Path) -> Iterator[Path]:
        def download(partial: Path) -> None:
            self._fs.get_file(shard.file, str(partial))
            if shard.bytes and (size := partial.stat().st_size) != shard.bytes:
                raise DamagedShardError(f"{shard.file} of {self._url} came with {size} of its {shard.bytes} bytes")

        yield download_shard(shard, scratch, download)


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.  Raises ValueError if its library is not installed."""
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ValueError(f"{url} needs a library that is not installed: {error}") from error
    return fs, path.rstrip("/")


def url_stamp(info: Mapping[str, Any]) -> str:
    """A file's stamp from what its file system says of it: entity tag, else time of change; and size."""
    tags = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified", "updated", "created")
    return digest([next((str(info[tag]) for tag in tags if info.get(tag)), ""), info.get("size")])
