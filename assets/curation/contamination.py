"""Contamination: rows that a benchmark has, too, by source video, or by question, answer and frames.

Same video: the YouTube id of a row's clip is that of an item and their intervals overlap, an unknown interval being all
of the video; or both have the same file name.  Same content: the question (without its options) and the answer have the
keys of an item's, and an observed frame is near (`perceptual_hash`) one of the item's.  Frames are read for such rows
alone.  Template questions are common, so a question alone is counted and nothing more.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dataframely as dy
import numpy as np
import polars as pl

from assets.curation.keys import (
    answer_in_words,
    answer_key,
    question_key,
    question_stem,
    with_clip_interval,
)
from assets.curation.perceptual_hash import any_near, clip_signatures, signature
from assets.curation.scored import scan
from training.data.images import open_image
from training.data.keyframes import key_frame_number, key_frame_pool
from training.storage.parquet import scan_parquet

SAME_VIDEO = "source video of a benchmark item"
SAME_CONTENT = "question, answer and frames of a benchmark item"
READERS_AT_ONCE = 4

_LETTERS = "ABCD"
_ACTIVITYNET = r"^v_([A-Za-z0-9_-]{11})\."  # FutureBench names some videos as ActivityNet does
_NO_SUFFIX = r"(?s)([^/]*?)(?:\.[A-Za-z][A-Za-z0-9_]{1,4})?/*$"


class BenchmarkTable(dy.Schema):
    """One benchmark item as rows are compared with it; what is null cannot be compared."""

    benchmark = dy.String(primary_key=True, description="name of the benchmark")
    item_id = dy.String(primary_key=True, description="id of the item")
    videos = dy.List(dy.String(), description="ids of its source video")
    begin = dy.Float64(nullable=True, description="start in the source video, in seconds")
    finish = dy.Float64(nullable=True, description="end in the source video, in seconds")
    question = dy.String(nullable=True, description="normalised question")
    answer = dy.String(nullable=True, description="normalised answer")


@dataclass(frozen=True)
class BenchmarkIndex:
    """All items of the benchmarks that a set must not touch, and their frames, read on demand."""

    table: pl.DataFrame
    sources: Mapping[str, Path]
    _frames: dict[tuple[str, str], list[np.ndarray]] = field(default_factory=dict)

    def signatures(self, items: pl.DataFrame) -> dict[tuple[str, str], list[np.ndarray]]:
        """Signatures of the observed frames of `items` (benchmark, item_id); none where there are no frames."""
        for benchmark, ids in items.unique().group_by("benchmark").agg("item_id").iter_rows():
            missing = [i for i in ids if (benchmark, i) not in self._frames]
            table = scan_parquet(self.sources[benchmark]).filter(pl.col("id").is_in(missing)).collect()
            for item in table.iter_rows(named=True):
                self._frames[benchmark, item["id"]] = _item_signatures(item)
        return {key: self._frames[key] for key in items.select("benchmark", "item_id").iter_rows()}


def benchmark_index(sources: Mapping[str, Path]) -> BenchmarkIndex:
    """`sources`: item tables by benchmark, `futurebench` and `twiffbench` (their `items.parquet`)."""
    tables = [_indexed(benchmark, path) for benchmark, path in sorted(sources.items())]
    table = pl.concat([BenchmarkTable.create_empty(), *tables])
    return BenchmarkIndex(BenchmarkTable.validate(table), dict(sources))


def contaminated(
    keyed: pl.DataFrame, scored: Sequence[Path], index: BenchmarkIndex
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The rows of a keyed table that an item has, too (row_id, reason, benchmark, item_id), and counts of near misses.

    A row is listed once, with the first item that it matches, by video before by content.
    """
    items = index.table.with_columns(pl.col("question", "answer").hash())
    by_video = _same_video(keyed, items)
    rest = keyed.join(by_video, on="row_id", how="anti")
    questions = items.drop_nulls("question").unique("question")
    same_question = rest.join(questions, left_on="stem", right_on="question", how="semi")
    complete = items.drop_nulls(["question", "answer"]).rename({"question": "stem"})
    pairs = same_question.join(complete, on=["stem", "answer"]).select("row_id", "benchmark", "item_id")
    by_content = _same_frames(pairs, scored, index)
    matches = pl.concat([by_video, by_content]).sort("row_id")
    matching = pairs["row_id"].n_unique()
    return matches, {
        SAME_VIDEO: by_video.height,
        SAME_CONTENT: by_content.height,
        "question and answer alone": matching - by_content.height,
        "question alone": same_question.height - matching,
    }


def _same_video(keyed: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    videos = items.explode("videos").drop_nulls("videos").select(
        "benchmark", "item_id", pl.col("videos").alias("key"), pl.col("begin").alias("b"), pl.col("finish").alias("f")
    )  # fmt: skip
    matches = []
    by_name = keyed.filter(pl.col("video_id").is_null()).with_columns(pl.col("video").str.extract(_NO_SUFFIX))
    for rows, key in ((keyed, "video_id"), (by_name, "video")):
        candidates = rows.select("row_id", "begin", "finish", pl.col(key).alias("key")).join(videos, on="key")
        overlap = (pl.col("begin") < pl.col("f")) & (pl.col("b") < pl.col("finish"))
        matches.append(candidates.filter(overlap.fill_null(True)))
    return _listed(pl.concat(matches), SAME_VIDEO)


def _same_frames(pairs: pl.DataFrame, scored: Sequence[Path], index: BenchmarkIndex) -> pl.DataFrame:
    wanted = pl.col("row_id").is_in(pairs["row_id"].unique().implode())
    columns = ("row_id", "path", "frame_count", "reader", "observed")
    rows = scan(scored).select(columns).filter(wanted).collect(engine="streaming").unique("row_id", keep="any")
    with ThreadPoolExecutor(READERS_AT_ONCE) as pool:
        signatures = dict(pool.map(_row_signatures, rows.iter_rows(named=True)))
    items = index.signatures(pairs.select("benchmark", "item_id"))
    near = [any_near(signatures[row], items[benchmark, item]) for row, benchmark, item in pairs.iter_rows()]
    return _listed(pairs.filter(pl.Series(near, dtype=pl.Boolean)), SAME_CONTENT)


def _listed(pairs: pl.DataFrame, reason: str) -> pl.DataFrame:
    first = pairs.sort("row_id", "benchmark", "item_id").unique("row_id", keep="first")
    return first.select("row_id", pl.lit(reason).alias("reason"), "benchmark", "item_id")


def _row_signatures(row: Mapping[str, Any]) -> tuple[str, list[np.ndarray]]:
    numbers = [key_frame_number(row["frame_count"], index) for index in row["observed"]]
    return row["row_id"], clip_signatures(row["path"], numbers, row["reader"])


def _item_signatures(item: Mapping[str, Any]) -> list[np.ndarray]:
    """Signatures of an item's embedded images, or the first frame and the key frames of its observed part."""
    if "question_images" in item:
        return [signature(open_image(data)) for data in item["question_images"] or []]
    if item["path"] is None:
        return []
    return clip_signatures(item["path"], sorted({0, *key_frame_pool(item["frame_count"])}), item["reader"])


def _indexed(benchmark: str, path: Path) -> pl.DataFrame:
    items = _READERS[benchmark](scan_parquet(path))
    names = [pl.col("video_id"), pl.col("video").str.extract(_NO_SUFFIX), pl.col("video").str.extract(r"([^/]*)/*$")
             .str.extract(_ACTIVITYNET)]  # fmt: skip
    return with_clip_interval(items).select(
        pl.lit(benchmark).alias("benchmark"),
        pl.col("id").alias("item_id"),
        pl.concat_list(names).list.drop_nulls().list.unique().alias("videos"),
        pl.when(pl.col("begin").is_not_null() & pl.col("finish").is_not_null()).then("begin").alias("begin"),
        pl.when(pl.col("begin").is_not_null() & pl.col("finish").is_not_null()).then("finish").alias("finish"),
        question_key(question_stem(pl.col("question"))).alias("question"),
        answer_key(pl.col("answer")).alias("answer"),
    ).collect()  # fmt: skip


def _futurebench(items: pl.LazyFrame) -> pl.LazyFrame:
    """An item's observed part is a piece, of unknown times, of the video that it names."""
    chosen = pl.col("options").list.get(
        pl.col("answer").replace_strict({letter: i for i, letter in enumerate(_LETTERS)}, default=None,
                                        return_dtype=pl.Int64), null_on_oob=True
    )  # fmt: skip
    unknown = pl.lit(None, pl.String)
    return items.select("id", "video", "question", chosen.alias("answer"), unknown.alias("start"), unknown.alias("end"))


def _twiffbench(items: pl.LazyFrame) -> pl.LazyFrame:
    answer = answer_in_words(pl.col("question"), pl.col("answer"))
    return items.select("id", "video", "start", "end", "question", answer.alias("answer"))


_READERS: dict[str, Callable[[pl.LazyFrame], pl.LazyFrame]] = {"futurebench": _futurebench, "twiffbench": _twiffbench}
