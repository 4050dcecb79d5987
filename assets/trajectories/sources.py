"""Sources of shards: a folder, an fsspec URL, or a dataset repository on a hub, behind one small protocol.

A source lists its files without reading them, and fetches one of them as a local file.
"""

import glob
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, Protocol

from assets.trajectories.hub import HubSource
from assets.trajectories.locations import HUB, local_path, pattern_root
from assets.trajectories.settings import SourceSettings
from assets.trajectories.shards import (
    TAIL_BYTES,
    DamagedFileError,
    Listing,
    Shard,
    SourceFile,
    cut_into_shards,
    download_file,
)
from training.data.json_rows import count_json_rows
from training.data.parquet_rows import count_parquet_rows
from training.storage.files import AppendLog
from training.storage.hashing import digest, file_digest


class Source(Protocol):
    """A place that has files of rows."""

    def listing(self) -> Listing:
        """The current files; ValueError that says what to do if there is none, or if two have one name."""
        ...

    def version(self, file: SourceFile) -> str:
        """The version of the file's content."""
        ...

    def fetch(self, file: SourceFile, scratch: Path) -> AbstractContextManager[Path]:
        """A local copy of the file, or the file itself; a remote one is cached under `scratch`."""
        ...

    def tail(self, file: SourceFile) -> AbstractContextManager[Path | IO[bytes]]:
        """The file, or at least its last TAIL_BYTES, where parquet has its metadata; no more is read than is needed."""
        ...


def source_shards(settings: SourceSettings, scratch: Path) -> tuple[Source, str, dict[str, Shard]]:
    """The source, its revision, and its shards by name, in order.

    A file's rows are counted once for each of its stamps: parquet says how many it has, JSON is read to its end.
    Remote JSON is downloaded to `scratch` for that, which the pull needs, too.  A file that cannot be read is one
    shard, whose pull says why.  Raises ValueError if there is no shard, or if two would have one name.
    """
    source = open_source(settings.trajectories)
    listing = source.listing()
    rows = {}
    with closing(AppendLog(scratch / "row_counts.jsonl")) as log:
        counted = {(record["file"], record["stamp"]): record["rows"] for record in log.records()}
        for file in listing.files.values():
            with suppress(ValueError, DamagedFileError):
                if (count := counted.get((file.path, file.stamp))) is None:
                    count = count_rows(source, file, scratch / "shards")
                    log.append({"file": file.path, "stamp": file.stamp, "rows": count})
                rows[file.name] = count
    shards = cut_into_shards(listing.files.values(), rows, settings.rows_per_partition, settings.trajectories)
    return source, listing.revision, shards


def count_rows(source: Source, file: SourceFile, scratch: Path) -> int:
    """The number of a file's rows.  Raises ValueError for a file that cannot be read."""
    is_parquet = file.path.endswith(".parquet")
    if is_parquet and file.bytes > TAIL_BYTES:
        with suppress(ValueError), source.tail(file) as tail:  # else there is more metadata, or a server has no ranges
            return count_parquet_rows(tail, file.path, file.bytes)
    with source.fetch(file, scratch) as path:
        if is_parquet:
            return count_parquet_rows(path, file.path, file.bytes or path.stat().st_size)
        return count_json_rows(path)


def open_source(location: str) -> Source:
    """The source at a location that `SourceSettings` accepted."""
    if location.startswith(HUB):
        return HubSource(location)
    path = local_path(location)
    return UrlSource(location) if path is None else LocalSource(path)


class LocalSource:
    """Files in a folder, or those that match a pattern; they are used in place."""

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

    def version(self, file: SourceFile) -> str:
        try:
            return _digest_of(Path(file.path), file.stamp)
        except OSError:  # which the pull says of this file alone
            return digest([file.stamp, "unreadable"])

    def fetch(self, file: SourceFile, scratch: Path) -> AbstractContextManager[Path]:
        return nullcontext(Path(file.path))

    def tail(self, file: SourceFile) -> AbstractContextManager[Path | IO[bytes]]:
        return nullcontext(Path(file.path))


@cache
def _digest_of(path: Path, stamp: str) -> str:
    """Once a process, however many shards a file is cut into."""
    return file_digest(path)


class UrlSource:
    """Files right under an fsspec URL, or those that its pattern names.

    A file's version is its stamp, an entity tag or time of change with the size, so that nothing is downloaded to
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

    def version(self, file: SourceFile) -> str:
        return file.stamp

    @contextmanager
    def fetch(self, file: SourceFile, scratch: Path) -> Iterator[Path]:
        def download(partial: Path) -> None:
            self._fs.get_file(file.path, str(partial))
            if file.bytes and (size := partial.stat().st_size) != file.bytes:
                raise DamagedFileError(f"{file.path} of {self._url} came with {size} of its {file.bytes} bytes")

        yield download_file(file, scratch, download)

    def tail(self, file: SourceFile) -> AbstractContextManager[Path | IO[bytes]]:
        return self._fs.open(file.path, "rb", block_size=TAIL_BYTES)


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
