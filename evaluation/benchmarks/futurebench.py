"""FutureBench: four-way multiple choice about what happens after (hop1-3) or between (hop5) the events that are seen.

Scoring is that of `choice`.
"""

from dataclasses import dataclass

import dataframely as dy
import polars as pl

from evaluation.benchmarks.choice import MultipleChoice
from evaluation.benchmarks.futurebench_items import FutureBenchItems, FutureBenchSettings


class ItemTable(dy.Schema):
    """One benchmark item; `problem` says why it is unusable."""

    id = dy.String(primary_key=True, description="id of the item")
    video = dy.String(nullable=True, description="clip of the observed part")
    question_type = dy.String(
        description="split: how far ahead the question asks (hop1 to hop3), or between observed events (hop5)"
    )
    question = dy.String(description="question without its options")
    options = dy.List(dy.String(), description="four options in order")
    answer = dy.String(description="letter of the correct option")
    path = dy.String(nullable=True, description="path of the clip's file")
    frame_count = dy.Int64(nullable=True, min=1, description="number of displayed frames of the observed part")
    reader = dy.String(nullable=True, description="way its frames are read: by seeking, or sequentially from the start")
    problem = dy.String(nullable=True, description="reason why the item is unusable")

    @dy.rule()
    def either_a_path_or_a_problem(cls) -> pl.Expr:
        return pl.col("path").is_not_null() ^ pl.col("problem").is_not_null()


@dataclass(frozen=True)
class FutureBench(FutureBenchItems, MultipleChoice):
    settings: FutureBenchSettings
    item_table = ItemTable
