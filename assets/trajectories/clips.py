"""The clips that trajectories name: found inside their root, probed and hashed, or quarantined with a reason."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import dataframely as dy
import polars as pl

from assets.trajectories.roots import ClipRoot, find_clip, open_root
from assets.trajectories.validate import Quarantine, quarantine_table, quarantined
from training.data.keyframes import key_frame_pool
from training.data.probe_pool import PROCESSES, ProbePool, shared_pool
from training.data.rejection import RejectedRow, rejecting
from training.data.trajectory import clip_interval
from training.data.video import UnreadableVideo, VideoInfo
from training.storage.hashing import file_digest


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
    def a_clip_is_readable_or_says_why_not(cls) -> pl.Expr:
        return pl.col("reader").is_not_null() ^ pl.col("reason").is_not_null()


def resolve_clips(
    rows: pl.DataFrame,
    roots: Sequence[Path | str],
    progress: Callable[[int, int], None] = lambda done, total: None,
    cache: Path | None = None,
) -> tuple[dy.DataFrame[ClipTable], dy.DataFrame[Quarantine]]:
    """The clips that the trajectories in `rows` name, each probed once, and the rows whose clip cannot be used.

    `roots` are folders or fsspec URLs; clips from the latter are kept under `cache`.  `progress(done, total)` counts
    clips.  Raises what a remote root raises that cannot be asked: then nobody knows which clips it has.
    """
    opened = [open_root(root, cache) for root in roots]
    videos = rows.group_by("video", maintain_order=True).agg(
        pl.struct("start", "end").filter(pl.col("start").is_not_null() & pl.col("end").is_not_null()).first()
    )
    found: list[dict[str, Any]] = []
    probes = shared_pool()
    threads = ThreadPoolExecutor(PROCESSES)
    try:
        for clip in threads.map(lambda row: _clip(row[0], row[1], opened, probes), videos.iter_rows()):
            found.append(clip)
            progress(len(found), videos.height)
    except BaseException:  # an interrupt waits for no clip
        threads.shutdown(wait=False, cancel_futures=True)
        probes.close()
        raise
    finally:
        threads.shutdown()
    clips = ClipTable.validate(pl.DataFrame(found, schema=ClipTable.create_empty().schema))
    unusable = rows.join(clips.filter(pl.col("reason").is_not_null()), on="video", how="inner", maintain_order="left")
    return clips, quarantine_table(
        [
            quarantined(row["source"], RejectedRow(row["reason"], row["detail"]), row["row"], row["row_id"])
            for row in unusable.select("source", "row", "row_id", "reason", "detail").iter_rows(named=True)
        ]
    )


def alias_of(video: str, start: str, end: str) -> str | None:
    """The other name that clips go by, `{youtube id}-{start}-{end}.mp4`; None where it is the same or unknown."""
    youtube = clip_interval(video, None, None).video_id
    alias = PurePosixPath(video).parent / f"{youtube}-{start}-{end}.mp4"
    return str(alias) if youtube is not None and str(alias) != video else None


def _clip(video: str, times: dict[str, str] | None, roots: Sequence[ClipRoot], probes: ProbePool) -> dict[str, Any]:
    clip: dict[str, Any] = {"video": video}
    try:
        path, alias = _found(video, times, roots)
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


def _found(video: str, times: dict[str, str] | None, roots: Sequence[ClipRoot]) -> tuple[Path, str | None]:
    """The clip's file, and its alias if it was found by that."""
    try:
        return find_clip(video, roots), None
    except RejectedRow as reject:
        alias = alias_of(video, **times) if times and reject.reason == "missing clip" else None
        if alias is None:
            raise
        try:
            return find_clip(alias, roots), alias
        except RejectedRow:
            raise RejectedRow(reject.reason, f"{reject.detail}, nor is {alias!r}") from None
