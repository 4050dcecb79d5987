"""Repeated rows: the same frames of the same clip, the same answer, and a question that only words itself otherwise.

A clip is the same under whatever name: the same file name, the same file content, or the same interval of the same
YouTube video.  Questions are compared by `keys.question_key`.
"""

import polars as pl


def repeated(ranked: pl.DataFrame) -> pl.Series:
    """`same` [rows]: the rank of the best-ranked row that asks the same of the same frames; its own where it is first.

    `ranked` is a keyed table with `rank` and `clip` (`clip_number`).
    """
    question = ("clip", "frames", "stem", "options", "answer")
    return ranked.select(pl.col("rank").min().over(question).alias("same"))["same"]


def clip_number(ranked: pl.DataFrame) -> pl.Series:
    """`clip` [rows]: the lowest rank among all rows that are of the same clip, over any chain of names."""
    own = pl.col("rank").cast(pl.UInt64) + (1 << 63)  # no interval, no company: a number of its own
    interval = pl.struct("video_id", (pl.col("begin", "finish") * 1000).round().cast(pl.Int64))
    known = pl.all_horizontal(pl.col("video_id", "begin", "finish").is_not_null())
    table = ranked.select(
        pl.col("rank").alias("clip"),
        pl.col("video").hash().alias("name"),
        "file",
        pl.when(known).then(interval.hash()).otherwise(own).alias("interval"),
    )
    while True:
        before = table["clip"]
        for name in ("name", "file", "interval"):
            table = table.with_columns(pl.col("clip").min().over(name))
        if table["clip"].equals(before):
            return before
