"""A second, independent check that a published set is disjoint from the benchmarks: row by row, without the
selection's code.

It shares `training.data.clip_names.clip_interval`, the grader's idea of equal answers, and the perceptual hash of
frames.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import polars as pl

from assets.curation.contamination import BenchmarkIndex
from assets.curation.perceptual_hash import any_near, clip_signatures
from training.data.clip_names import clip_interval
from training.data.keyframes import key_frame_number
from training.grading.parsers import normalised, options_of
from training.storage.parquet import read_parquet


def disjoint(published: pl.DataFrame, index: BenchmarkIndex) -> list[str]:
    """The violations, one sentence for each row that an item of `index` has, too; empty for a disjoint set.

    `published`: the trajectory's columns with path, frame_count and reader.  Texts are compared letter by letter but
    for case and spaces, without frame markers and options.
    """
    by_video, by_text = defaultdict(list), defaultdict(list)
    for benchmark, path in index.sources.items():
        items = read_parquet(path).drop("question_images", "reasoning_images", strict=False)
        for item in items.iter_rows(named=True):
            where = (benchmark, item["id"])
            for name in source_names(item["video"]):
                by_video[name].append((where, _times(item)))
            for text in _texts(item["question"], _option(item) or item["answer"]):
                by_text[text].append(where)
    violations, candidates = [], []
    for row in published.iter_rows(named=True):
        begin, finish = _times(row)
        for where, (b, f) in (item for name in source_names(row["video"]) for item in by_video.get(name, ())):
            unknown = begin is None or finish is None or b is None or f is None
            if unknown or (b < finish and begin < f):  # type: ignore[operator]
                violations.append(f"row {row['row_id']}: {row['video']} is the source of {'/'.join(where)}")
        same = {where for text in _texts(row["question"], row["answer"]) for where in by_text.get(text, ())}
        candidates += [(row, same)] if same else []
    matched = sorted({where for _, same in candidates for where in same})
    frames = index.signatures(pl.DataFrame(matched, schema=["benchmark", "item_id"], orient="row"))
    for row, same in candidates:
        numbers = [key_frame_number(row["frame_count"], k) for k in row["observed"]]
        observed = clip_signatures(row["path"], numbers, row["reader"])
        violations += [
            f"row {row['row_id']}: question, answer and frames of {'/'.join(where)}"
            for where in sorted(same)
            if any_near(observed, frames[where])
        ]
    return violations


def source_names(video: str | None) -> set[str]:
    """The names of the video that a clip is a piece of: its YouTube id, also without `v_`, and the file's."""
    if video is None:
        return set()
    stem = PurePosixPath(video).stem
    video_id = clip_interval(video, None, None).video_id
    return {stem, *([video_id] if video_id else []), *([stem[2:]] if len(stem) == 13 and stem.startswith("v_") else [])}


def question_words(question: str) -> str:
    """A question without frame markers, options, letter case and superfluous spaces."""
    stem = question.split("\nA. ")[0] if options_of(question) else question
    return normalised(re.sub(r"(frame_\d+\s*)?<image>", " ", stem))


def _times(row: Mapping[str, Any]) -> tuple[float | None, float | None]:
    interval = clip_interval(row["video"] or "", row.get("start"), row.get("end"))
    return interval.start, interval.end


def _texts(question: str | None, answer: str | None) -> list[tuple[str, str]]:
    if not question or not answer:
        return []
    return [(question_words(question), normalised(options_of(question).get(answer.strip(), answer)))]


def _option(item: Mapping[str, Any]) -> str | None:
    """The text of the option that a FutureBench item's letter names."""
    return dict(zip("ABCD", item.get("options") or (), strict=False)).get(item["answer"] or "")
