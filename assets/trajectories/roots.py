"""Clip roots: folders, and fsspec URLs whose clips are downloaded one by one into a cache."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

from assets.trajectories.locations import local_path
from assets.trajectories.sources import filesystem, url_stamp
from training.data.rejection import RejectedRow
from training.data.video import check_clip_name, resolve_clip
from training.storage.hashing import digest


class ClipRoot(Protocol):
    """A place that has clips by name."""

    def clip(self, name: str) -> Path:
        """The clip as a local file; RejectedRow if the name is none, leads out of the root, or is not there."""
        ...


def open_root(root: Path | str, cache: Path | None = None) -> ClipRoot:
    """The clip root at a folder or an fsspec URL.  Raises ValueError for a URL without a cache."""
    path = local_path(str(root))
    if path is not None:
        return LocalRoot(path)
    if cache is None:
        raise ValueError(f"clips from {root} need a folder to be kept in")
    return UrlRoot(str(root), cache)


def find_clip(name: str, roots: Sequence[ClipRoot]) -> Path:
    """The clip in the first root that has it; RejectedRow if none does."""
    rejects = []
    for root in roots:
        try:
            return root.clip(name)
        except RejectedRow as reject:
            rejects.append(reject)
    if any(reject.reason == "missing clip" for reject in rejects) or not rejects:
        raise RejectedRow("missing clip", f"{name!r} is in none of the {len(roots)} clip roots")
    raise rejects[0]


class LocalRoot:
    """Clips in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def clip(self, name: str) -> Path:
        return resolve_clip(name, [self._folder])


class UrlRoot:
    """Clips under an fsspec URL.

    A name goes to the file system as it is, so it must not hold `..` nor begin at the top.  The cached file is called
    by a hash of where the clip is and its stamp: names reach no local path.
    """

    def __init__(self, url: str, cache: Path) -> None:
        self._url, self._cache = url, cache
        self._fs, self._root = filesystem(url)
        self._fs.invalidate_cache()  # else a clip that came later would still be missing

    def clip(self, name: str) -> Path:
        check_clip_name(name)
        if ".." in PurePosixPath(name).parts or name.startswith("/") or "\\" in name or "://" in name or "::" in name:
            raise RejectedRow("path outside clip root", repr(name))
        place = f"{self._root}/{PurePosixPath(name)}"
        try:
            info = self._fs.info(place)
        except FileNotFoundError:
            info = {"type": "missing"}
        except ValueError as error:  # a name of which no address can be made
            raise RejectedRow("malformed clip name", f"{name[:80]!r}: {error}") from error
        if info["type"] != "file":
            raise RejectedRow("missing clip", f"{name!r} is not in {self._url}")
        key = digest([self._url, str(PurePosixPath(name)), url_stamp(info)])
        file = self._cache / key[:2] / f"{key}.mp4"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            fresh = file.with_name(f".{key}-{os.getpid()}-{threading.get_ident()}")
            try:
                self._fs.get_file(place, str(fresh))
                if info.get("size") and fresh.stat().st_size != info["size"]:
                    raise OSError(f"{name} of {self._url} came with {fresh.stat().st_size} of its {info['size']} bytes")
                fresh.replace(file)
            finally:
                fresh.unlink(missing_ok=True)
        return file.absolute()
