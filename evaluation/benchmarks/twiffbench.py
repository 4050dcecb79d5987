"""TwiFF-Bench: open and chosen answers with a reasoning chain, both scored 0 to 5 by a judge.

Scores cover only what was judged: a report says how much that is, and is null rather than 0 where it is nothing.
Against the release: all reference images are shown, the short answer is the ground truth (the whole text is an option),
images travel as they are embedded, and the model's two texts are JSON strings (reference/evaluation.md 2.4).
"""

import base64
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import dataframely as dy
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from evaluation.benchmarks.benchmark import StoredAnswers, item_of, probed, stored
from evaluation.benchmarks.cleanup import split_response, without_image_markers
from evaluation.benchmarks.cost import cost
from evaluation.benchmarks.judged import (
    HIGHEST,
    LOWEST,
    agreements,
    judge_facts,
    judged_coverage,
    mark_columns,
    repeated,
)
from evaluation.statistics import bootstrap_mean
from training.data.dialogue import Slot, user_pieces
from training.data.images import jpeg, media_type, open_image
from training.data.json_rows import most_unpacked
from training.data.keyframes import key_frame_number
from training.data.parquet_rows import parquet_rows
from training.data.prompts import Part, image, prompt_frame, text
from training.data.rejection import RejectedRow
from training.data.trajectory import IMAGE, Trajectory, parse_row, text_of
from training.data.video import read_frames, resolve_clip
from training.grading.judge import SCORE_PROMPT, Judge
from training.grading.parsers import normalised
from training.grading.replies import Scores

NAME = "twiffbench"
SCORES = ("cot", "answer")
MARK_LABELS = {"cot": "CoT", "answer": "Answer", "average": "Average"}
MARKS = tuple(MARK_LABELS)
IMAGES = ("question_images", "reasoning_images")
MAX_ITEM_BYTES = 2**28
"""Of a row with its images."""


class TwiffBenchSettings(BaseModel):
    """The benchmark recipe: how an item is shown, and what the judge sees of it.

    `interleaved` puts each image at its marker, as SFT rendered questions; `images_first` is the release's layout:
    images, then the preamble, then the question.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Literal["interleaved", "images_first"] = "images_first"
    preamble: str = ""
    frames: Literal["embedded", "clip"] = "embedded"
    """Where an item's frames are: in its row, or key frames of its clip, for tables without images."""
    clips: str = "clips"
    """The folder of clips in the benchmark's folder."""
    ground_truth: Literal["short", "whole"] = "short"
    judge_sees_images: bool = True
    judgements: int = Field(default=1, ge=1)
    """Judgements of an item; its mark is their mean, and the report says how they agree."""


class ItemTable(dy.Schema):
    """One benchmark item; `problem` says why it cannot be asked."""

    id = dy.String(primary_key=True, description="number of the row over all shards")
    video = dy.String(nullable=True, description="clip that the item is about")
    start = dy.String(nullable=True, description="start of the clip in its source video")
    end = dy.String(nullable=True, description="end of the clip in its source video")
    category = dy.String(nullable=True, description="kind of question")
    question = dy.String(nullable=True, description="question, with a marker for each observed image")
    reasoning = dy.List(dy.String(), nullable=True, description="text of the reference around its images")
    answer = dy.String(nullable=True, description="reference answer, short")
    whole_answer = dy.String(nullable=True, description="reference answer as in the source")
    question_images = dy.List(dy.Binary(), nullable=True, description="observed frames, encoded")
    reasoning_images = dy.List(dy.Binary(), nullable=True, description="future frames of the reference, encoded")
    problem = dy.String(nullable=True, description="reason why the item cannot be asked")


class ScoreTable(dy.Schema):
    """One answered item; its marks are means over `*_marks`, the judgements in order, and null where there is none."""

    id = dy.String(primary_key=True, description="number of the row over all shards")
    category = dy.String(description="kind of question")
    cot = dy.Float64(
        nullable=True, min=LOWEST, max=HIGHEST, description="judge's mean mark of the reasoning, 0 to 5; null: unjudged"
    )
    cot_marks = dy.List(
        dy.Int64(nullable=True, min=LOWEST, max=HIGHEST), description="judge's marks of the reasoning, in order"
    )
    answer = dy.Float64(
        nullable=True, min=LOWEST, max=HIGHEST, description="judge's mean mark of the answer, 0 to 5; null: unjudged"
    )
    answer_marks = dy.List(
        dy.Int64(nullable=True, min=LOWEST, max=HIGHEST), description="judge's marks of the answer, in order"
    )


PUBLISHED = TwiffBenchSettings()


def items(source: Path, settings: TwiffBenchSettings = PUBLISHED) -> pl.DataFrame:
    """The items of all `test-*.parquet` shards in `source`; ids are row numbers over the shards in order."""
    clips = source / settings.clips if settings.frames == "clip" else None
    shards = sorted(source.glob("test-*.parquet"))
    if not shards:
        raise ValueError(f"no test-*.parquet in {source}")
    read = partial(parquet_rows, columns=lambda table: table.names, longest=MAX_ITEM_BYTES)
    records = (record for shard in shards for _, record in read(shard))
    most = left = most_unpacked(sum(shard.stat().st_size for shard in shards)) if clips is None else math.inf
    rows = []
    for n, record in enumerate(records):
        rows.append({"id": f"{n:05d}"} | item_of({}, _pieces(record, n, clips)))
        left -= sum(len(image) for name in IMAGES for image in rows[-1].get(name) or [])
        if left < 0:
            raise ValueError(f"{source}: the images unpack to more than {most} bytes, far more than images would")
    return ItemTable.validate(pl.DataFrame(rows, schema=ItemTable.create_empty().schema))


def prompts(table: pl.DataFrame, settings: TwiffBenchSettings) -> pl.DataFrame:
    """The prompt table of the items that can be shown; ids are the items' ids.  Items with the same answer share their
    `reference`.
    """
    shown = list(table.filter(pl.col("problem").is_null()).iter_rows(named=True))
    references = pl.Series("reference", [normalised(row["answer"]) for row in shown], pl.String)
    return prompt_frame([(row["id"], _content(row, settings)) for row in shown]).with_columns(references)


def judged(
    table: pl.DataFrame, answers: pl.DataFrame, judge: Judge | None, settings: TwiffBenchSettings
) -> pl.DataFrame:
    """The judge's marks for every answered item; null without a judge."""
    told = table.join(answers.filter(pl.col("sample") == 0), left_on="id", right_on="prompt_id", maintain_order="left")
    marks: list[list[Scores | None]] = [[None] * settings.judgements] * told.height
    if judge is not None:
        payloads = [list(judge_payload(row, row["text"], judge, settings)) for row in told.iter_rows(named=True)]
        marks = repeated(partial(judge.scores, payloads), settings.judgements)
    return ScoreTable.validate(told.select("id", "category", *mark_columns(SCORES, marks)))


def report(
    table: pl.DataFrame, scores: pl.DataFrame, settings: TwiffBenchSettings, judge: Judge | None
) -> dict[str, Any]:
    """Means with bootstrap intervals, overall and per category, with their coverage and who judged."""
    settled = scores.filter(pl.col("cot").is_not_null())
    return {
        "benchmark": NAME,
        "layout": settings.layout,
        **judged_coverage(table, scores, "cot", judge),
        **means(settled),
        "categories": {
            category: means(settled.filter(pl.col("category") == category))
            for category in settled["category"].unique().sort()
        },
        "agreement": agreements(scores, SCORES, settings.judgements),
        "judge": judge_facts(
            judge, SCORE_PROMPT, settings.judgements,
            sees_images=settings.judge_sees_images, ground_truth=settings.ground_truth,
        ),
    }  # fmt: skip


def means(settled: pl.DataFrame) -> dict[str, Any]:
    """CoT, Answer and their average: the plain means over items, as published."""
    table = settled.with_columns(((pl.col("cot") + pl.col("answer")) / 2).alias("average"))
    return {mark: bootstrap_mean(table[mark].to_list()).as_dict() for mark in MARKS}


@dataclass(frozen=True)
class TwiffBench:
    """Implements evaluation.benchmarks.benchmark.Benchmark."""

    settings: TwiffBenchSettings
    name = NAME
    judged = True
    by = "category"

    def items(self, source: Path) -> pl.DataFrame:
        return items(source, self.settings)

    def prompts(self, table: pl.DataFrame) -> pl.DataFrame:
        return prompts(table, self.settings)

    def graded(self, table: pl.DataFrame, told: StoredAnswers) -> pl.DataFrame:
        return judged(table, told.answers, told.judge, self.settings)

    def report(self, table: pl.DataFrame, told: StoredAnswers, rows: pl.DataFrame) -> dict[str, Any]:
        return report(table, rows, self.settings, told.judge) | {"control": told.control, "cost": cost(told.answers)}


def judge_payload(
    row: Mapping[str, Any], response: str, judge: Judge, settings: TwiffBenchSettings
) -> Iterator[dict[str, Any]]:
    """The user message of reference/evaluation.md 2.4, in order."""
    chain, answer = split_response(response)
    yield text_part("Question: ")
    yield from _with_images(row["question"].split(IMAGE), row["question_images"], settings)
    yield text_part("\nReference Reasoning Chain: ")
    yield from _with_images(row["reasoning"], row["reasoning_images"], settings)
    yield text_part("\nGround Truth Answer: ")
    yield text_part(row["answer"] if settings.ground_truth == "short" else row["whole_answer"])
    yield text_part("\nModel Response Reasoning Chain: ")
    yield text_part(judge.untrusted(chain))
    yield text_part("\nModel Response Answer: ")
    yield text_part(judge.untrusted(answer))


def _with_images(texts: list[str], images: list[bytes], settings: TwiffBenchSettings) -> Iterator[dict[str, Any]]:
    """Text pieces with an image after each but the last; only the text where the judge sees none."""
    for number, piece in enumerate(texts):
        if piece.strip():
            yield text_part(piece)
        if number < len(images) and settings.judge_sees_images:
            yield image_part(images[number])
        elif number < len(images):
            yield text_part("\n")


def text_part(value: str) -> dict[str, Any]:
    """A piece of text in a message to a judge."""
    return {"type": "text", "text": value}


def image_part(data: bytes) -> dict[str, Any]:
    """An encoded image in a message to a judge, labelled with its type."""
    url = f"data:{media_type(data)};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _pieces(record: Mapping[str, Any] | RejectedRow, number: int, clips: Path | None) -> Iterator[dict[str, Any]]:
    """An item as far as it can be read.  Raises RejectedRow where it can no further.

    The clip that it is about is known also of one that cannot be asked: nothing may be trained on it.
    """
    if isinstance(record, RejectedRow):
        raise record
    yield {"video": stored(record.get("video"))}
    meta = record.get("meta_data") or {}
    if isinstance(meta, Mapping):  # what else it may be, parse_row says
        yield {name: stored(meta.get(name)) for name in ("start", "end")}
    row = parse_row(record, NAME, number)
    shown = _embedded(record, row) if clips is None else _key_frames(row, clips)
    yield {
        "category": row.category,
        "question": row.question,
        "reasoning": list(row.reasoning),
        "answer": row.answer,
        "whole_answer": text_of(record, "answer"),
        "question_images": shown[0],
        "reasoning_images": shown[1],
    }


def _embedded(record: Mapping[str, Any], row: Trajectory) -> list[list[bytes]]:
    """The observed images and the future ones.  Raises RejectedRow where they are not all there, or unreadable."""
    shown: list[list[Any]] = [
        [image["bytes"] if isinstance(image, Mapping) else None for image in record.get(name) or []] for name in IMAGES
    ]
    if [len(images) for images in shown] != [len(row.observed), len(row.future)] or None in shown[0] + shown[1]:
        raise RejectedRow("embedded images missing", f"{[len(images) for images in shown]} images")
    for data in shown[0] + shown[1]:
        try:
            open_image(data)
        except ValueError as error:
            raise RejectedRow("unreadable image", str(error)) from error
    return shown


def _key_frames(row: Trajectory, clips: Path) -> list[list[bytes]]:
    """The same, read from the row's clip (reference/evaluation.md 3.1).  Raises RejectedRow."""
    path = resolve_clip(row.video, [clips])
    clip = probed(path)
    numbers = [key_frame_number(clip.frames, index) for index in (*row.observed, *row.future)]
    images = [jpeg(pixels) for pixels in read_frames(path, numbers, clip.reader)]
    return [images[: len(row.observed)], images[len(row.observed) :]]


def _content(row: Mapping[str, Any], settings: TwiffBenchSettings) -> list[Part]:
    images = [image(data) for data in row["question_images"]]
    if settings.layout == "images_first":
        asked = (settings.preamble, without_image_markers(row["question"]))
        return [*images, text("\n\n".join(piece for piece in asked if piece))]
    pieces = user_pieces(row["question"], len(images))
    return [images[piece.index] if isinstance(piece, Slot) else text(piece) for piece in pieces]
