"""The table of validated trajectories."""

import dataframely as dy
import polars as pl

from training.data.keyframes import KEY_FRAMES
from training.data.trajectory import CATEGORIES, IMAGE


class TrajectoryTable(dy.Schema):
    """Validated trajectories, one a row; the columns are the fields of `Trajectory`."""

    row_id = dy.String(
        primary_key=True,
        regex="^[0-9a-f]{16}$",
        description="hash of the row's content, the same in every layout and shard",
    )
    source = dy.String(min_length=1, description="shard that the row was read from")
    video = dy.String(min_length=1, description="name of the clip")
    question = dy.String(min_length=1, description="question, with a marker for each observed frame")
    reasoning = dy.List(
        dy.String(),
        min_length=2,
        max_length=KEY_FRAMES + 1,
        description="text before each future frame, and after the last; empty where there is none",
    )
    answer = dy.String(min_length=1, description="reference answer")
    observed = dy.List(
        dy.Int64(min=1, max=KEY_FRAMES),
        min_length=1,
        max_length=KEY_FRAMES,
        description="key-frame indices 1..8 of the observed frames",
    )
    future = dy.List(
        dy.Int64(min=1, max=KEY_FRAMES),
        min_length=1,
        max_length=KEY_FRAMES,
        description="key-frame indices 1..8 of the future frames",
    )
    category = dy.String(regex=f"^({'|'.join(CATEGORIES)})$", description="kind of question")
    start = dy.String(nullable=True, description="start of the clip in its source video")
    end = dy.String(nullable=True, description="end of the clip in its source video")

    @dy.rule()
    def future_follows_observed(cls) -> pl.Expr:
        return pl.col("future").list.min() > pl.col("observed").list.max()

    @dy.rule()
    def one_text_piece_around_each_future_frame(cls) -> pl.Expr:
        return pl.col("reasoning").list.len() == pl.col("future").list.len() + 1

    @dy.rule()
    def one_marker_for_each_observed_frame(cls) -> pl.Expr:
        return pl.col("question").str.count_matches(IMAGE, literal=True) == pl.col("observed").list.len()
