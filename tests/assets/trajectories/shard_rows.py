"""Rows as the published datasets have them, and files of rows."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dataframely as dy
import polars as pl

from assets.trajectories.validate import Batch, PulledTable, Quarantine, read_shard
from training.data.trajectory import Trajectory
from training.data.trajectory_table import TrajectoryTable


def twiff_row(**changes: Any) -> dict[str, Any]:
    """TwiFF-2.7M."""
    row = {
        "video": "AAAAAAAAAAA_0.mp4",
        "question": "frame_1\n<image>\nWhat happens?",
        "answer": "It rolls. <rimage> <ans>it stops</ans>",
        "question_images_index": [1],
        "reasoning_images_index": [4],
        "meta_data": {"Process": "p", "Summary": "s", "classification": "Camera", "start": "0", "end": "1"},
    }
    return row | changes


def published_row(**changes: Any) -> dict[str, Any]:
    """Future-L1-50K, of the same content."""
    row = {
        "video": "AAAAAAAAAAA_0.mp4",
        "conversations": [
            {"from": "human", "value": twiff_row()["question"]},
            {"from": "gpt", "value": "THOUGHT 1: It rolls. <image>"},
        ],
        "image": [1],
        "reasoning_image": [4],
        "answer": "it stops",
        "meta_data": twiff_row()["meta_data"],
        "gain": 5,
        "correct_in_8_base": 1,
        "correct_in_8_hint": 6,
    }
    return row | changes


def upstream_row(**changes: Any) -> dict[str, Any]:
    """TwiFF's own training files, of the same content."""
    row = {
        "video": "AAAAAAAAAAA_0.mp4",
        "frames": [1],
        "recon_frames": [4],
        "conversations": [
            {"from": "system", "value": "You think in frames."},
            {"from": "human", "value": twiff_row()["question"]},
            {"from": "gpt", "value": twiff_row()["answer"]},
        ],
        "meta_data": twiff_row()["meta_data"],
    }
    return row | changes


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows as parquet, or as one JSON record a line."""
    if path.suffix == ".parquet":
        pl.DataFrame(rows).write_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pull_shard(path: Path) -> Batch:
    """`read_shard` at once, for a shard that fits into memory."""
    batches = list(read_shard(path, path.stem))
    rows = pl.concat([PulledTable.create_empty(), *(rows for rows, _ in batches)])
    rejected = pl.concat([Quarantine.create_empty(), *(rejected for _, rejected in batches)])
    return PulledTable.cast(rows), Quarantine.cast(rejected)


def table_of(trajectories: list[Trajectory]) -> dy.DataFrame[TrajectoryTable]:
    rows = [asdict(trajectory) for trajectory in trajectories]
    return TrajectoryTable.validate(pl.DataFrame(rows, schema=TrajectoryTable.create_empty().schema))
