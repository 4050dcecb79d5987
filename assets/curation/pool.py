"""Scored rows without their texts: what is told of millions of them is a few numbers and hashes each.

Texts are turned into keys while the shards stream by; only the rows that are published are read whole.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from assets.curation.keys import (
    answer_in_words,
    answer_key,
    question_key,
    question_options,
    question_stem,
    with_clip_interval,
)
from training.storage.hashing import stable_hash
from training.storage.parquet import scan_parquet

READ = ("row_id", "video", "p_t", "gain", "start", "end", "sha256", "question", "answer", "observed", "future")


def scan(scored: Sequence[Path]) -> pl.LazyFrame:
    """All scored shards as one table.  Raises ValueError without any."""
    if not scored:
        raise ValueError("no scored shards: materialise curation/visual_gain first")
    return scan_parquet(*scored, extra_columns="ignore")


def keyed(rows: pl.LazyFrame) -> pl.DataFrame:
    """One row per trajectory, the one of the best gain where shards repeat it, with the keys that tell rows apart.

    `file`, `frames`, `stem`, `options` and `answer` are hashes of this process: of the clip's content, the key-frame
    indices, the question without its options, the options, and the answer in words.
    """
    question, answer = pl.col("question"), answer_in_words(pl.col("question"), pl.col("answer"))
    keys = (
        with_clip_interval(rows.select(READ))
        .select(
            "row_id",
            "video",
            "p_t",
            "gain",
            "video_id",
            "begin",
            "finish",
            pl.coalesce("sha256", "video").hash().alias("file"),
            pl.struct("observed", "future").hash().alias("frames"),
            question_key(question_stem(question)).hash().alias("stem"),
            question_key(question_options(question)).hash().alias("options"),
            answer_key(answer).hash().alias("answer"),
        )
        .collect(engine="streaming")
    )
    if keys["row_id"].n_unique() == keys.height:
        return keys
    best_first = keys.sort("gain", "p_t", "video", descending=[True, False, False], nulls_last=True)
    return best_first.unique("row_id", keep="first")


def whole_rows(scored: Sequence[Path], ranked: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """`columns` of the rows in `ranked` (row_id, rank), with `rank` and in its order; each row once, as in `keyed`."""
    wanted = pl.col("row_id").is_in(ranked["row_id"].implode())
    found = scan(scored).select(columns).filter(wanted).collect(engine="streaming")
    found = found.join(ranked.select("row_id", "rank"), on="row_id")
    order: dict[str, Any] = {"by": ["rank", "gain", "p_t", "video"], "descending": [False, True, False, False]}
    return found.sort(**order, nulls_last=True).unique("rank", keep="first").sort("rank")


def drawn(row_ids: pl.Series, *seed: str) -> pl.Series:
    """The hash of each row's id, which orders rows as by chance: `stable_hash(seed, row_id)`.

    Without a seed, of the row id alone: the order among rows of equal gain.
    """
    return pl.Series("drawn", [stable_hash(*seed, row_id) for row_id in row_ids], pl.UInt64)
