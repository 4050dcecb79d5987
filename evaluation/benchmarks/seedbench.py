"""SEED-Bench-R1: the next action in a first-person video, at three distances from its training set (L1, L2, L3).

Multiple choice as its authors score it, or open-ended with the options hidden and one mark from 0 to 5 by a judge, as
TwiFF does (reference/evaluation.md 2.8).  The folder is the published dataset's: `annotations/validation_L*.jsonl`
(or TwiFF's one `Seed-Bench-R1.jsonl` with a `task_level`), `images/{video_source}/` and `videos/{video_source}/`.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import dataframely as dy
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from evaluation.benchmarks import choice
from evaluation.benchmarks.benchmark import StoredAnswers, check_uncontrolled, item_of, probed, stored, unique_id
from evaluation.benchmarks.choice import LETTERS
from evaluation.benchmarks.cleanup import split_response
from evaluation.benchmarks.cost import cost
from evaluation.benchmarks.futurebench import shown_numbers, video_frame_numbers
from evaluation.benchmarks.judged import (
    HIGHEST,
    LOWEST,
    agreements,
    judge_facts,
    judged_coverage,
    mark_columns,
    repeated,
)
from evaluation.benchmarks.twiffbench import image_part, text_part
from evaluation.statistics import bootstrap_mean
from training.data.images import jpeg, media_type
from training.data.json_rows import json_rows
from training.data.prompts import Part, frame, prompt_frame, text, video
from training.data.rejection import RejectedRow
from training.data.trajectory import text_of
from training.data.video import read_frames, resolve_clip
from training.grading.judge import ANSWER_PROMPT, Judge
from training.grading.parsers import ParserName, normalised

CHOICE, OPEN_ENDED = "seedbench", "seedbench_open"
LEVELS = ("L1", "L2", "L3")
SUFFIXES = {
    CHOICE: "Reply with the letter of the one best option only, inside <answer> </answer>.",
    OPEN_ENDED: "Give the final answer inside <answer> </answer>.",
}
BLANK: dict[str, Any] = {"question": "", "options": [], "answer": "", "gold": ""}
_LEVEL = re.compile(r"L[123]")
# "Considering the progress shown in the video and my current observation in the last frame, what ...": the question
# speaks of pictures that are not as it says; what is asked begins after the comma.
_LEAD_IN = re.compile(r"[^,?]*,\s*")
_OBSERVATION = re.compile(r"\bobservation\b", re.IGNORECASE)


class SeedBenchSettings(BaseModel):
    """The benchmark recipe.

    `observation` shows the current observation alone, labelled as a first frame, as TwiFF does; `video` shows the
    progress so far as a video of up to `video_frames` frames, where the item has one, and then the observation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    open_ended: bool = False
    layout: Literal["observation", "video"] = "video"
    parser: ParserName = "strict"
    video_frames: int = 32
    video_tokens: int = 768
    suffix: str | None = None
    """What follows the question; None: `SUFFIXES`."""
    judge_sees_images: bool = True
    judgements: int = Field(default=1, ge=1)

    @property
    def name(self) -> str:
        return OPEN_ENDED if self.open_ended else CHOICE


class ItemTable(dy.Schema):
    """One benchmark item; `problem` says why it cannot be asked.  path, frame_count, reader: of the video so far, null
    where the task has only begun.
    """

    id = dy.String(primary_key=True, description="id of the item")
    level = dy.String(description="level of generalisation, L1 to L3")
    question = dy.String(description="question without its options")
    options = dy.List(dy.String(), description="options in order")
    answer = dy.String(description="letter of the correct option")
    gold = dy.String(description="text of the correct option")
    image = dy.String(nullable=True, description="path of the current observation")
    path = dy.String(nullable=True, description="path of the video so far; null where the task has only begun")
    frame_count = dy.Int64(nullable=True, min=1, description="number of displayed frames of the video so far")
    reader = dy.String(nullable=True, description="way its frames are read: by seeking, or sequentially from the start")
    problem = dy.String(nullable=True, description="reason why the item cannot be asked")


class ScoreTable(dy.Schema):
    """One answered item of the open-ended mode."""

    id = dy.String(primary_key=True, description="id of the item")
    level = dy.String(description="level of generalisation, L1 to L3")
    answer = dy.Float64(
        nullable=True, min=LOWEST, max=HIGHEST, description="judge's mean mark of the answer, 0 to 5; null: unjudged"
    )
    answer_marks = dy.List(
        dy.Int64(nullable=True, min=LOWEST, max=HIGHEST), description="judge's marks of the answer, in order"
    )


@dataclass(frozen=True)
class SeedBench:
    """Implements evaluation.benchmarks.benchmark.Benchmark."""

    settings: SeedBenchSettings
    by = "level"

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def judged(self) -> bool:
        return self.settings.open_ended

    def items(self, source: Path) -> pl.DataFrame:
        return items(source, self.settings)

    def prompts(self, table: pl.DataFrame) -> pl.DataFrame:
        return prompts(table, self.settings)

    def graded(self, table: pl.DataFrame, told: StoredAnswers) -> pl.DataFrame:
        if self.judged:
            return _judged(table, told, self.settings)
        return choice.graded(table, told.answers, self.settings.parser, self.by, told.control)

    def report(self, table: pl.DataFrame, told: StoredAnswers, rows: pl.DataFrame) -> dict[str, Any]:
        head = {"benchmark": self.name, "layout": self.settings.layout}
        if self.judged:
            return head | _judged_report(table, told, rows, self.settings)
        return head | choice.report(table, told.answers, self.settings.parser, self.by, LEVELS, told.control)


def items(source: Path, settings: SeedBenchSettings) -> pl.DataFrame:
    """The items of all levels; ids are `{level}-{sample_id}`.  A line that is no item is one with a problem.

    Raises ValueError where `source` holds no annotations.
    """
    files = sorted(source.glob("annotations/validation_L*.jsonl")) or sorted(source.glob("Seed-Bench-R1.jsonl"))
    if not files:
        raise ValueError(f"no annotations/validation_L*.jsonl and no Seed-Bench-R1.jsonl in {source}")
    seen: Counter[str] = Counter()
    rows = []
    for file in files:
        named = _LEVEL.search(file.name)
        for number, record in json_rows(file):
            fields = {} if isinstance(record, RejectedRow) else record
            level = str(stored(fields.get("task_level") or (named.group() if named else None)))
            name = f"{level}-{stored(fields.get('sample_id', f'line{number + 1}'))}".replace("/", "_")
            item = item_of(BLANK, _pieces(record, level, settings, source))
            rows.append({"id": unique_id(name, seen), "level": level} | item)
    return ItemTable.validate(pl.DataFrame(rows, schema=ItemTable.create_empty().schema))


def prompts(table: pl.DataFrame, settings: SeedBenchSettings) -> pl.DataFrame:
    """The prompt table of the items that can be shown; ids are the items' ids.  Open-ended, it has no `options`."""
    shown = list(table.filter(pl.col("problem").is_null()).iter_rows(named=True))
    told = prompt_frame([(row["id"], _content(row, settings)) for row in shown])
    if settings.open_ended:
        return told.with_columns(pl.Series("reference", [normalised(row["gold"]) for row in shown], pl.String))
    return told.with_columns(choice.prompt_columns(shown, settings.parser))


def judge_payload(
    row: Mapping[str, Any], response: str, judge: Judge, settings: SeedBenchSettings
) -> Iterator[dict[str, Any]]:
    """The question with the observation, the gold option's text, and the model's answer (no reference chain)."""
    yield text_part("Question: ")
    if settings.judge_sees_images:
        yield image_part(_observation(Path(row["image"])))
    yield text_part(_bare(row["question"]))
    yield text_part("\nGround Truth Answer: ")
    yield text_part(row["gold"])
    yield text_part("\nModel Response Answer: ")
    yield text_part(judge.untrusted(split_response(response)[1]))


def _judged(table: pl.DataFrame, told: StoredAnswers, settings: SeedBenchSettings) -> pl.DataFrame:
    answers = told.answers.filter(pl.col("sample") == 0)
    rows = table.join(answers, left_on="id", right_on="prompt_id", maintain_order="left")
    marks: list[list[int | None]] = [[None] * settings.judgements] * rows.height
    if told.judge is not None:
        judge = told.judge
        payloads = [list(judge_payload(row, row["text"], judge, settings)) for row in rows.iter_rows(named=True)]
        marks = repeated(partial(judge.marks, payloads), settings.judgements)
    single = [[None if mark is None else (mark,) for mark in item] for item in marks]
    return ScoreTable.validate(rows.select("id", "level", *mark_columns(["answer"], single)))


def _judged_report(
    table: pl.DataFrame, told: StoredAnswers, rows: pl.DataFrame, settings: SeedBenchSettings
) -> dict[str, Any]:
    def mean(level: str | None = None) -> dict[str, Any]:
        chosen = rows if level is None else rows.filter(pl.col("level") == level)
        return bootstrap_mean(chosen["answer"].drop_nulls().to_list()).as_dict()

    facts = judge_facts(told.judge, ANSWER_PROMPT, settings.judgements, sees_images=settings.judge_sees_images)
    return {
        "control": told.control,
        **judged_coverage(table, rows, "answer", told.judge),
        "answer": mean(),
        "splits": {level: mean(level) for level in LEVELS},
        "agreement": agreements(rows, ["answer"], settings.judgements),
        "judge": facts,
        "cost": cost(told.answers),
    }


def _observation(path: Path) -> bytes:
    """The observation's file, or what it shows where a judge could not read its format."""
    data = path.read_bytes()
    return data if media_type(data) else jpeg(read_frames(path, [0], "sequential")[0])


def _pieces(
    record: Mapping[str, Any] | RejectedRow, level: str, settings: SeedBenchSettings, source: Path
) -> Iterator[dict[str, Any]]:
    """An item as far as it can be read.  Raises RejectedRow where it can no further."""
    if isinstance(record, RejectedRow):
        raise record
    if level not in LEVELS:
        raise RejectedRow("level is not L1, L2 or L3", f"found {level}")
    fields = {name: value for name, value in record.items() if value}
    named = ("question", *(f"choice_{letter.lower()}" for letter in LETTERS))
    if missing := [name for name in named if name not in fields]:
        raise RejectedRow("question or option missing", f"no {', '.join(missing)}")
    question, *options = (text_of(fields, name) for name in named)
    answer = text_of(fields, "golden_choice_idx").strip().upper()
    yield {"question": question, "options": options, "answer": answer}
    if not all(text.strip() for text in (question, *options)):
        raise RejectedRow("question or option missing", "a blank one")
    check_uncontrolled(question, *options)
    if answer not in tuple(LETTERS):
        raise RejectedRow("reference is not one letter A-D", f"found {answer!r}")
    yield {"gold": text_of({"answer": options[LETTERS.index(answer)], **fields}, "answer")}
    folder = text_of(fields, "video_source")
    image = resolve_clip(f"{folder}/{text_of(fields, 'current_observation_basename')}", [source / "images"])
    probed(image, kind="image")
    yield {"image": str(image)}
    if settings.layout == "observation" or "task_progress_metadata" not in fields:
        return
    path = resolve_clip(f"{folder}/{text_of(fields, 'video_basename')}", [source / "videos"])
    clip = probed(path, partial(shown_numbers, most=settings.video_frames))
    if clip.frames < 2:
        raise RejectedRow("video of a single frame", str(path))
    yield {"path": str(path), "frame_count": clip.frames, "reader": clip.reader}


def _content(row: Mapping[str, Any], settings: SeedBenchSettings) -> list[Part]:
    observation = frame(row["image"], 0)  # a picture is a clip of one frame
    suffix = SUFFIXES[settings.name] if settings.suffix is None else settings.suffix
    if settings.layout == "observation":
        return [text("frame_1"), observation, text(_asked(_bare(row["question"]), row, settings, suffix))]
    shown = [observation]
    if row["path"] is not None:
        numbers = video_frame_numbers(row["frame_count"], settings.video_frames)
        shown = [video(row["path"], numbers, row["reader"], settings.video_tokens), observation]
    return [*shown, text(_asked(row["question"], row, settings, suffix))]


def _asked(question: str, row: Mapping[str, Any], settings: SeedBenchSettings, suffix: str) -> str:
    asked = question if settings.open_ended else choice.with_options(question, row["options"])
    return "\n".join(piece for piece in (asked, suffix) if piece)


def _bare(question: str) -> str:
    lead_in = _LEAD_IN.match(question)
    return question[lead_in.end() :] if lead_in and _OBSERVATION.search(lead_in[0]) else question
