"""The clips that trajectories name: found inside their root, probed and hashed, or quarantined with a reason."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import dataframely as dy
import polars as pl

from assets.trajectories.roots import ClipRoot, find_clip, open_root
from assets.trajectories.validate import Quarantine, quarantine_table, quarantined
from training.artifacts import file_digest
from training.data.rejection import RejectedRow, rejecting
from training.data.trajectory import clip_interval
from training.data.video import UnreadableVideo, VideoInfo, probe

READERS_AT_ONCE = 4  # probing waits for storage; both readers release Python's lock


class ClipTable(dy.Schema):
    """One clip a row: where it is, its displayed frames and size, the reader that shows it; or why it is unusable.

    `alias` is the name under which the clip was found, where that is not the rows' own.
    """

    video = dy.String(primary_key=True)
    alias = dy.String(nullable=True)
    path = dy.String(nullable=True)
    bytes = dy.Int64(nullable=True, min=0)
    frames = dy.Int64(nullable=True, min=1)
    fps = dy.Float64(nullable=True)
    width = dy.Int64(nullable=True, min=1)
    height = dy.Int64(nullable=True, min=1)
    sha256 = dy.String(nullable=True, regex="^[0-9a-f]{64}$")
    reader = dy.String(nullable=True, regex="^(decord|pyav)$")
    reason = dy.String(nullable=True)
    detail = dy.String(nullable=True)

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
    with ThreadPoolExecutor(READERS_AT_ONCE) as pool:
        for clip in pool.map(lambda row: _clip(row[0], row[1], opened), videos.iter_rows()):
            found.append(clip)
            progress(len(found), videos.height)
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


def _clip(video: str, times: dict[str, str] | None, roots: Sequence[ClipRoot]) -> dict[str, Any]:
    clip: dict[str, Any] = {"video": video}
    try:
        path, alias = _found(video, times, roots)
        with rejecting("unreadable clip"):
            clip |= {"alias": alias, "path": str(path), "bytes": path.stat().st_size, "sha256": file_digest(path)}
            info = _probed(path)
    except RejectedRow as reject:
        return clip | {"reason": reject.reason, "detail": reject.detail}
    return clip | {
        "frames": info.frames,
        "fps": info.fps,
        "width": info.width,
        "height": info.height,
        "reader": info.reader,
    }


def _probed(path: Path) -> VideoInfo:
    try:
        return probe(path)
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
