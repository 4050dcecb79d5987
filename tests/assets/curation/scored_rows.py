"""Scored rows as the curation stages hand them on, without a model behind them."""

from typing import Any

import polars as pl

from training.data.trajectory import TrajectoryTable

MULTIPLE_CHOICE = "frame_1\n<image>\nWhich colour?\nA. red\nB. blue\nC. green\nD. pink"


def trajectory(number: int, **fields: Any) -> dict[str, Any]:
    row = {
        "row_id": f"{number:016x}",
        "source": "shard-0",
        "video": f"clip{number:07d}_0.mp4",
        "question": MULTIPLE_CHOICE,
        "reasoning": ["First it rolls on.", ""],
        "answer": "red",
        "observed": [1],
        "future": [2],
        "category": "predictive",
        "start": "0:00:00.000",
        "end": "0:00:03.000",
        "path": f"/clips/clip{number:07d}_0.mp4",
        "frame_count": 24,
        "reader": "decord",
    }
    return row | fields


def rows_of(*rows: dict[str, Any]) -> pl.DataFrame:
    """Trajectories with the columns that clip resolution adds."""
    schema = dict(TrajectoryTable.create_empty().schema) | {
        "path": pl.String,
        "frame_count": pl.Int64,
        "reader": pl.String,
    }
    return pl.DataFrame(list(rows), schema=schema)
