"""The clips that trajectories name: found inside their root, probed and hashed, or quarantined with a reason."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dataframely as dy
import polars as pl

from assets.trajectories.validate import Quarantine, quarantine_table, quarantined
from training.data.trajectory import RejectedRow
from training.data.video import UnreadableVideo, probe, resolve_clip

READERS_AT_ONCE = 4  # probing waits for storage; both readers release Python's lock


class ClipTable(dy.Schema):
    """One clip a row: where it is, its displayed frames and size, the reader that shows it; or why it is unusable."""

    video = dy.String(primary_key=True)
    path = dy.String(nullable=True)
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
    rows: pl.DataFrame, roots: Sequence[Path], progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[dy.DataFrame[ClipTable], dy.DataFrame[Quarantine]]:
    """The clips that the trajectories in `rows` name, each probed once, and the rows whose clip cannot be used.

    `progress(done, total)` counts clips.
    """
    videos = rows["video"].unique(maintain_order=True).to_list()
    found: list[dict[str, Any]] = []
    with ThreadPoolExecutor(READERS_AT_ONCE) as pool:
        for clip in pool.map(lambda video: _clip(video, roots), videos):
            found.append(clip)
            progress(len(found), len(videos))
    clips = ClipTable.validate(pl.DataFrame(found, schema=ClipTable.create_empty().schema))
    unusable = rows.join(clips.filter(pl.col("reason").is_not_null()), on="video", how="inner", maintain_order="left")
    return clips, quarantine_table(
        [
            quarantined(source, RejectedRow(reason, detail), row_id=row_id)
            for source, row_id, reason, detail in unusable.select("source", "row_id", "reason", "detail").iter_rows()
        ]
    )


def _clip(video: str, roots: Sequence[Path]) -> dict[str, Any]:
    try:
        path = resolve_clip(video, roots)
    except RejectedRow as reject:
        return {"video": video, "reason": reject.reason, "detail": reject.detail}
    with path.open("rb") as file:
        clip = {"video": video, "path": str(path), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    try:
        info = probe(path)
    except UnreadableVideo as unreadable:
        return clip | {"reason": "unreadable clip", "detail": str(unreadable)}
    return clip | {
        "frames": info.frames,
        "fps": info.fps,
        "width": info.width,
        "height": info.height,
        "reader": info.reader,
    }
