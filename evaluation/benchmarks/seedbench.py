"""SEED-Bench-R1: the next action in a first-person video, at three distances from its training set (L1, L2, L3).

Multiple choice as its authors score it, or open-ended with the options hidden and one mark from 0 to 5 by a judge, as
TwiFF does (reference/evaluation.md 2.8).  The folder is the published dataset's: `annotations/validation_L*.jsonl`
(or TwiFF's one `Seed-Bench-R1.jsonl` with a `task_level`), `images/{video_source}/` and `videos/{video_source}/`.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import dataframely as dy

from evaluation.benchmarks import judged
from evaluation.benchmarks.choice import MultipleChoice
from evaluation.benchmarks.futurebench_items import frame_numbers, video_frame_numbers
from evaluation.benchmarks.items import probe_clip, read_item
from evaluation.benchmarks.judge_messages import JudgedSettings, Marks, image_part, split_response, text_part
from evaluation.benchmarks.judged import JudgedBenchmark
from evaluation.benchmarks.options import LETTERS, ChoiceSettings, check_question, with_options
from training.data.clip_names import resolve_clip
from training.data.images import jpeg, media_type
from training.data.json_rows import json_rows
from training.data.parts import Part, frame, text, video
from training.data.rejection import RejectedRow
from training.data.row_fields import bounded_text, text_of, unique_id
from training.data.video import read_frames
from training.grading.judge import ANSWER_PROMPT, Judge
from training.grading.parsers import ParserName
from training.grading.replies import read_mark

LEVELS = ("L1", "L2", "L3")
BLANK: dict[str, Any] = {"question": "", "options": [], "answer": "", "gold": ""}
_LEVEL = re.compile(r"L[123]")
# "Considering the progress shown in the video and my current observation in the last frame, what ...": the question
# speaks of pictures that are not as it says; what is asked begins after the comma.
_LEAD_IN = re.compile(r"[^,?]*,\s*")
_OBSERVATION = re.compile(r"\bobservation\b", re.IGNORECASE)


class SeedBenchSettings(ChoiceSettings):
    """The multiple-choice recipe."""

    layout: Literal["observation", "video"] = "video"
    """`observation`: the current observation alone, as TwiFF does; `video`: before it the progress so far as a video,
    where the item has one."""
    video_frames: int = 32
    """The most frames of a video."""
    video_tokens: int = 768
    """The most merged tokens of a video's frame pair."""
    suffix: str = "Reply with the letter of the one best option only, inside <answer> </answer>."
    """Text after the options."""


class SeedBenchOpenSettings(JudgedSettings):
    """The open-ended recipe; layouts as in `SeedBenchSettings`."""

    layout: Literal["observation", "video"] = "video"
    """As in `SeedBenchSettings`."""
    video_frames: int = 32
    """The most frames of a video."""
    video_tokens: int = 768
    """The most merged tokens of a video's frame pair."""
    suffix: str = "Give the final answer inside <answer> </answer>."
    """Text after the question."""


Recipe = SeedBenchSettings | SeedBenchOpenSettings


class ItemTable(dy.Schema):
    """One benchmark item; `problem` says why it is unusable.  path, frame_count, reader: of the video so far, null
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
    problem = dy.String(nullable=True, description="reason why the item is unusable")


class ScoreTable(dy.Schema):
    """One answered item of the open-ended mode."""

    id = dy.String(primary_key=True, description="id of the item")
    level = dy.String(description="level of generalisation, L1 to L3")
    answer = judged.mark_column("answer")
    answer_marks = judged.marks_column("answer")


class _SeedItems:
    """The items, for both ways to ask for them."""

    settings: Recipe
    split_column = "level"
    splits: ClassVar[tuple[str, ...]] = LEVELS
    item_table: ClassVar[type[dy.Schema]] = ItemTable

    def files(self, source: Path) -> list[Path]:
        """The files of all levels.  Raises ValueError where `source` holds no annotations."""
        files = sorted(source.glob("annotations/validation_L*.jsonl")) or sorted(source.glob("Seed-Bench-R1.jsonl"))
        if not files:
            raise ValueError(f"no annotations/validation_L*.jsonl and no Seed-Bench-R1.jsonl in {source}")
        return files

    def rows(self, source: Path) -> Iterator[dict[str, Any]]:
        """The items of all levels; ids are `{level}-{sample_id}`.  A line that is no item is one with a problem."""
        ids: Counter[str] = Counter()
        for file in self.files(source):
            file_level = _LEVEL.search(file.name)
            for number, record in json_rows(file):
                fields = {} if isinstance(record, RejectedRow) else record
                level = str(bounded_text(fields.get("task_level") or (file_level.group() if file_level else None)))
                name = f"{level}-{bounded_text(fields.get('sample_id', f'line{number + 1}'))}".replace("/", "_")
                item = read_item(BLANK, _pieces(record, level, self.settings, source))
                yield {"id": unique_id(name, ids), "level": level} | item


@dataclass(frozen=True)
class SeedBench(_SeedItems, MultipleChoice):
    """With the options in the prompt."""

    settings: SeedBenchSettings
    name = "seedbench"

    def content(self, row: Mapping[str, Any]) -> list[Part]:
        return _content(row, self.settings, lambda question: with_options(question, row["options"]))


@dataclass(frozen=True)
class SeedBenchOpen(_SeedItems, JudgedBenchmark):
    """With the options hidden, and a judge."""

    settings: SeedBenchOpenSettings
    name = "seedbench_open"
    marks = ("answer",)
    judge_prompt = ANSWER_PROMPT
    score_table = ScoreTable
    reference_column = "gold"

    def content(self, row: Mapping[str, Any]) -> list[Part]:
        return _content(row, self.settings, str)

    def payload(self, row: Mapping[str, Any], judge: Judge) -> Iterator[dict[str, Any]]:
        """The question with the observation, the gold option's text, and the model's answer (no reference chain)."""
        yield text_part("Question: ")
        if self.settings.judge_sees_images:
            yield image_part(_observation(Path(row["image"])))
        yield text_part(_without_lead_in(row["question"]))
        yield text_part("\nGround Truth Answer: ")
        yield text_part(row["gold"])
        yield text_part("\nModel Response Answer: ")
        yield text_part(judge.untrusted(split_response(row["text"])[1]))

    def ask(self, judge: Judge, payloads: Sequence[list[dict[str, Any]]], judgement: int) -> Sequence[Marks | None]:
        return [None if mark is None else (mark,) for mark in judge.marks(payloads, judgement)]

    def read_reply(self, reply: str, parser: ParserName) -> Marks | None:
        mark = read_mark(reply)
        return None if mark is None else (mark,)


def _observation(path: Path) -> bytes:
    """The observation's file, or what it shows where a judge could not read its format."""
    data = path.read_bytes()
    return data if media_type(data) else jpeg(read_frames(path, [0], "sequential")[0])


def _pieces(
    record: Mapping[str, Any] | RejectedRow, level: str, settings: Recipe, source: Path
) -> Iterator[dict[str, Any]]:
    """An item as far as it can be read.  Raises RejectedRow where it can no further."""
    if isinstance(record, RejectedRow):
        raise record
    if level not in LEVELS:
        raise RejectedRow("level is not L1, L2 or L3", f"found {level}")
    fields = {name: value for name, value in record.items() if value}
    names = ("question", *(f"choice_{letter.lower()}" for letter in LETTERS))
    if missing := [name for name in names if name not in fields]:
        raise RejectedRow("question or option missing", f"no {', '.join(missing)}")
    question, *options = (text_of(fields, name) for name in names)
    answer = text_of(fields, "golden_choice_idx").strip().upper()
    yield {"question": question, "options": options, "answer": answer}
    check_question(question, options, answer)
    yield {"gold": text_of({"answer": options[LETTERS.index(answer)], **fields}, "answer")}
    folder = text_of(fields, "video_source")
    image = resolve_clip(f"{folder}/{text_of(fields, 'current_observation_basename')}", [source / "images"])
    probe_clip(image, kind="image")
    yield {"image": str(image)}
    if settings.layout == "observation" or "task_progress_metadata" not in fields:
        return
    path = resolve_clip(f"{folder}/{text_of(fields, 'video_basename')}", [source / "videos"])
    clip = probe_clip(path, partial(frame_numbers, max_frames=settings.video_frames))
    if clip.frames < 2:
        raise RejectedRow("video of a single frame", str(path))
    yield {"path": str(path), "frame_count": clip.frames, "reader": clip.reader}


def _content(row: Mapping[str, Any], settings: Recipe, with_options: Callable[[str], str]) -> list[Part]:
    observation = frame(row["image"], 0)  # an image is a clip of one frame
    if settings.layout == "observation":
        prompt = with_options(_without_lead_in(row["question"]))
        return [text("frame_1"), observation, _lines(prompt, settings.suffix)]
    progress = []
    if row["path"] is not None:
        numbers = video_frame_numbers(row["frame_count"], settings.video_frames)
        progress = [video(row["path"], numbers, row["reader"], settings.video_tokens)]
    return [*progress, observation, _lines(with_options(row["question"]), settings.suffix)]


def _lines(*pieces: str) -> Part:
    return text("\n".join(piece for piece in pieces if piece))


def _without_lead_in(question: str) -> str:
    lead_in = _LEAD_IN.match(question)
    return question[lead_in.end() :] if lead_in and _OBSERVATION.search(lead_in[0]) else question
