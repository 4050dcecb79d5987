"""The clips that trajectories name: found inside their root, probed and hashed, or quarantined with a reason.

A clip root is a folder, or an fsspec URL whose clips are downloaded one by one into a cache.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import dataframely as dy
import polars as pl

from assets.trajectories.locations import local_path
from assets.trajectories.sources import filesystem, url_stamp
from assets.trajectories.validate import Quarantine, quarantine_table, quarantined
from training.data.clip_names import check_clip_name, locate_clip, resolve_clip
from training.data.keyframes import key_frame_pool
from training.data.probe_pool import PROCESSES, ProbePool, shared_pool
from training.data.rejection import RejectedRow, rejecting
from training.data.video import UnreadableVideo, VideoInfo
from training.storage.hashing import digest, file_digest
from training.storage.parquet import read_parquet

ClipRoot = Callable[[str], Path]
"""The local file of a clip's name; RejectedRow for a name that is malformed, leads out of the root, or is missing.
"""


class ClipTable(dy.Schema):
    """One clip a row: where it is, its displayed frames and size, how it is read; or why it is unusable.

    `alias` is the name under which the clip was found, where that is not the rows' own.
    """

    video = dy.String(primary_key=True, description="name of the clip")
    alias = dy.String(nullable=True, description="other name under which the file is stored")
    path = dy.String(nullable=True, description="path of the file")
    bytes = dy.Int64(nullable=True, min=0, description="size of the file")
    frames = dy.Int64(nullable=True, min=1, description="number of displayed frames")
    fps = dy.Float64(nullable=True, description="frames per second")
    width = dy.Int64(nullable=True, min=1, description="width in pixels, after rotation")
    height = dy.Int64(nullable=True, min=1, description="height in pixels, after rotation")
    sha256 = dy.String(nullable=True, regex="^[0-9a-f]{64}$", description="SHA-256 of the file")
    reader = dy.String(
        nullable=True,
        regex="^(seek|sequential)$",
        description="way its frames are read: by seeking, or sequentially from the start",
    )
    rotation = dy.Int64(
        nullable=True, is_in=(0, 90, 180, 270), description="clockwise rotation that readers apply, in degrees"
    )
    header_seconds = dy.Float64(nullable=True, description="duration that the container's header states")
    reason = dy.String(nullable=True, description="reason why the clip cannot be used, one of a few")
    detail = dy.String(nullable=True, description="details of the reason")

    @dy.rule()
    def either_a_reader_or_a_reason(cls) -> pl.Expr:
        return pl.col("reader").is_not_null() ^ pl.col("reason").is_not_null()


def write_clips(
    rows_file: Path,
    clips_file: Path,
    quarantine_file: Path,
    roots: Sequence[str],
    progress: Callable[[int, int], None],
    cache: Path,
) -> dict[str, Any]:
    """`resolve_clips` from one parquet file to two; returns the counts."""
    rows = read_parquet(rows_file, columns=["row_id", "source", "row", "video", "start", "end"])
    clips, quarantine = resolve_clips(rows, roots, progress, cache)
    clips.write_parquet(clips_file)
    quarantine.write_parquet(quarantine_file)
    usable = clips.filter(pl.col("reason").is_null())
    return {
        "clips": clips.height,
        "usable": usable.height,
        "bytes": int(usable["bytes"].sum()),
        "readers": _counts(usable["reader"]),
        "by_alias": usable["alias"].count(),
        "rows_without_clip": quarantine.height,
        "reasons": _counts(quarantine["reason"]),
    }


def _counts(values: pl.Series) -> dict[str, int]:
    """The number of times that each value is there, the most frequent first."""
    return dict(values.value_counts(sort=True).iter_rows())


def resolve_clips(
    rows: pl.DataFrame,
    roots: Sequence[Path | str],
    progress: Callable[[int, int], None] = lambda done, total: None,
    cache: Path | None = None,
) -> tuple[dy.DataFrame[ClipTable], dy.DataFrame[Quarantine]]:
    """The clips that the trajectories in `rows` name, each probed once, and the rows whose clip cannot be used.

    `roots` are folders or fsspec URLs; clips from the latter are kept under `cache`.  `progress(done, total)` counts
    clips.  Raises what a remote root raises that cannot be reached: its clips are not known to be missing.
    """
    opened = [open_root(root, cache) for root in roots]
    videos = rows.group_by("video", maintain_order=True).agg(
        pl.struct("start", "end").filter(pl.col("start").is_not_null() & pl.col("end").is_not_null()).first()
    )
    resolved: list[dict[str, Any]] = []
    probes = shared_pool()
    threads = ThreadPoolExecutor(PROCESSES)
    try:
        for clip in threads.map(lambda row: _clip(row[0], row[1], opened, probes), videos.iter_rows()):
            resolved.append(clip)
            progress(len(resolved), videos.height)
    except BaseException:  # an interrupt waits for no clip
        threads.shutdown(wait=False, cancel_futures=True)
        probes.close()
        raise
    finally:
        threads.shutdown()
    clips = ClipTable.validate(pl.DataFrame(resolved, schema=ClipTable.create_empty().schema))
    unusable = rows.join(clips.filter(pl.col("reason").is_not_null()), on="video", how="inner", maintain_order="left")
    return clips, quarantine_table(
        [
            quarantined(row["source"], RejectedRow(row["reason"], row["detail"]), row["row"], row["row_id"])
            for row in unusable.select("source", "row", "row_id", "reason", "detail").iter_rows(named=True)
        ]
    )


def _clip(video: str, times: dict[str, str] | None, roots: Sequence[ClipRoot], probes: ProbePool) -> dict[str, Any]:
    clip: dict[str, Any] = {"video": video}
    try:
        path, alias = locate_clip(video, times, partial(_in_first_root, roots=roots))
        with rejecting("unreadable clip"):
            clip |= {"alias": alias, "path": str(path), "bytes": path.stat().st_size, "sha256": file_digest(path)}
            return clip | asdict(_probed(path, probes))
    except RejectedRow as reject:
        return clip | {"reason": reject.reason, "detail": reject.detail}


def _probed(path: Path, probes: ProbePool) -> VideoInfo:
    try:
        return probes.probe(path, key_frame_pool)
    except UnreadableVideo as unreadable:
        raise RejectedRow("unreadable clip", str(unreadable)) from unreadable


def _in_first_root(name: str, roots: Sequence[ClipRoot]) -> Path:
    """The clip in the first root that has it; RejectedRow if none does."""
    rejects = []
    for root in roots:
        try:
            return root(name)
        except RejectedRow as reject:
            rejects.append(reject)
    if any(reject.reason == "missing clip" for reject in rejects) or not rejects:
        raise RejectedRow("missing clip", f"{name!r} is in none of the {len(roots)} clip roots")
    raise rejects[0]


def open_root(root: Path | str, cache: Path | None = None) -> ClipRoot:
    """The clip root at a folder or an fsspec URL.  Raises ValueError for a URL without a cache."""
    path = local_path(str(root))
    if path is not None:
        return partial(resolve_clip, roots=[path])
    if cache is None:
        raise ValueError(f"clips from {root} need a folder to be kept in")
    return UrlRoot(str(root), cache)


class UrlRoot:
    """Clips under an fsspec URL.

    A name goes to the file system as it is, so it must not hold `..` nor begin at the top.  The cached file is called
    by a hash of where the clip is and its stamp: names reach no local path.
    """

    def __init__(self, url: str, cache: Path) -> None:
        self._url, self._cache = url, cache
        self._fs, self._root = filesystem(url)
        self._fs.invalidate_cache()  # else a clip that came later would still be missing

    def __call__(self, name: str) -> Path:
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
