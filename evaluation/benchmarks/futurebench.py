"""FutureBench: four-way multiple choice about what happens after (hop1-3) or between (hop5) the events that are seen.

Scoring is separate from answering, so that stored answers can be scored again (`choice` says how).
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import dataframely as dy
import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict

from evaluation.benchmarks import choice
from evaluation.benchmarks.benchmark import StoredAnswers, check_uncontrolled, item_of, probed, stored, unique_id
from evaluation.benchmarks.choice import LETTERS
from training.data.json_rows import json_rows
from training.data.prompts import Part, frame, prompt_frame, text, video
from training.data.rejection import RejectedRow
from training.data.trajectory import text_of
from training.data.video import resolve_clip
from training.grading.parsers import ParserName

NAME = "futurebench"
BLANK: dict[str, Any] = {"video": None, "question_type": "None", "question": "", "options": [], "answer": ""}
SPLIT_LABELS = {"hop1": "1 hop", "hop2": "2 hops", "hop3": "3 hops", "hop5": "interpolation"}
SPLITS = tuple(SPLIT_LABELS)
_INLINE = (re.compile(r"\bA\)\s"), re.compile(r"\bD\)\s"))


class FutureBenchSettings(BaseModel):
    """The benchmark recipe: how an item is shown and which parser reads the answer.

    `keyframes` shows the first observed frame as an image, as SFT rendered questions; `video32` is the paper's layout,
    up to `video_frames` frames of the observed part as one video before the text, each frame pair at most
    `video_tokens` merged tokens.  The release bounds video frames by 768 * 32 * 32 px from above, and from below like
    images (reference/evaluation.md 1.4).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Literal["keyframes", "video32"] = "video32"
    parser: ParserName = "strict"
    videos: str = "first_part_video"
    video_frames: int = 32
    video_tokens: int = 768
    prefix: str = ""
    suffix: str = "Reply with the letter of the one best option only, inside <answer> </answer>."


class ItemTable(dy.Schema):
    """One benchmark item; `problem` says why it cannot be asked."""

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
    problem = dy.String(nullable=True, description="reason why the item cannot be asked")

    @dy.rule()
    def an_item_can_be_shown_or_says_why_not(cls) -> pl.Expr:
        return pl.col("path").is_not_null() ^ pl.col("problem").is_not_null()


class GradedTable(dy.Schema):
    """One graded answer."""

    id = dy.String(primary_key=True, description="id of the item")
    question_type = dy.String(description="split of the item")
    answer = dy.String(description="letter of the correct option")
    text = dy.String(description="text of the answer")
    parsed = dy.String(nullable=True, description="letter that the answer names; null: none could be read")
    rule = dy.String(description="rule of the parser that read it")
    correct = dy.Bool(description="whether `parsed` is the correct letter")
    spans = dy.Int64(description="number of latent spans")
    prompt_tokens = dy.Int64(description="number of tokens of the prompt, text and vision")
    text_tokens = dy.Int64(description="number of text tokens")
    latent_tokens = dy.Int64(description="number of latents that were fed back")
    control_tokens = dy.Int64(description="number of latent_start, latent_end and end-of-turn tokens")
    prefill_seconds = dy.Float64(description="its share of its batch's prefill")
    decode_seconds = dy.Float64(description="its share of its batch's decoding")
    finished = dy.Bool(description="false: cut by max_new_tokens")


def items(source: Path, settings: FutureBenchSettings) -> pl.DataFrame:
    """The items of `source/futurebench.json`; videos are looked up in the folder of observed parts.

    Raises ValueError, naming the file, where it is no JSON.
    """
    seen: Counter[str] = Counter()
    rows = []
    for number, record in json_rows(source / "futurebench.json"):
        name = str(number) if isinstance(record, RejectedRow) else str(stored(record.get("id", number)))
        rows.append({"id": unique_id(name, seen)} | item_of(BLANK, _pieces(record, settings, source / settings.videos)))
    return ItemTable.validate(pl.DataFrame(rows, schema=ItemTable.create_empty().schema))


def prompts(table: pl.DataFrame, settings: FutureBenchSettings) -> pl.DataFrame:
    """The prompt table of the items that can be shown; ids are the items' ids.  What controls and donors need of an
    item is there, too: its `options` in order, and as `reference` what says that another has the same answer.
    """
    shown = list(table.filter(pl.col("problem").is_null()).iter_rows(named=True))
    return prompt_frame([(row["id"], _content(row, settings)) for row in shown]).with_columns(
        choice.prompt_columns(shown, settings.parser)
    )


def video_frame_numbers(frame_count: int, most: int = 32) -> list[int]:
    """The release's video frames: an even number of them, at most `most`, evenly spaced over the whole clip
    (reference/evaluation.md 1.4).  Raises ValueError for a clip of one frame.
    """
    wanted = max(2, 2 * (min(most, frame_count) // 2))
    if frame_count < wanted:
        raise ValueError(f"a clip of {frame_count} frames cannot be shown as a video of {wanted}")
    return np.round(np.linspace(0, frame_count - 1, wanted)).astype(int).tolist()


def shown_numbers(frame_count: int, most: int) -> list[int]:
    """The frames that a layout reads of a clip."""
    return video_frame_numbers(frame_count, most) if frame_count > 1 else [0]


def graded(table: pl.DataFrame, answers: pl.DataFrame, parser: ParserName, control: str = "none") -> pl.DataFrame:
    """One row per answered item, as `evaluation.benchmarks.choice.graded`; the split is `question_type`."""
    return choice.graded(table, answers, parser, "question_type", control)


def report(
    table: pl.DataFrame, answers: pl.DataFrame, settings: FutureBenchSettings, control: str = "none"
) -> dict[str, Any]:
    """Accuracy per split and micro average with Wilson intervals, unparsed answers, spans by depth, cost per answer."""
    told = choice.report(table, answers, settings.parser, "question_type", SPLITS, control)
    return {"benchmark": NAME, "layout": settings.layout, **told}


def accuracy_by_split(rows: pl.DataFrame) -> dict[str, dict[str, Any]]:
    return choice.accuracy_by(rows, "question_type", SPLITS)


@dataclass(frozen=True)
class FutureBench:
    """Implements evaluation.benchmarks.benchmark.Benchmark."""

    settings: FutureBenchSettings
    name = NAME
    judged = False
    by = "question_type"

    def items(self, source: Path) -> pl.DataFrame:
        return items(source, self.settings)

    def prompts(self, table: pl.DataFrame) -> pl.DataFrame:
        return prompts(table, self.settings)

    def graded(self, table: pl.DataFrame, told: StoredAnswers) -> pl.DataFrame:
        return graded(table, told.answers, self.settings.parser, told.control)

    def report(self, table: pl.DataFrame, told: StoredAnswers, rows: pl.DataFrame) -> dict[str, Any]:
        return report(table, told.answers, self.settings, told.control)


def _pieces(
    record: Mapping[str, Any] | RejectedRow, settings: FutureBenchSettings, videos: Path
) -> Iterator[dict[str, Any]]:
    """An item as far as it can be read.  Raises RejectedRow where it can no further."""
    if isinstance(record, RejectedRow):
        raise record
    yield {"video": stored(record.get("video_path")), "question_type": str(stored(record.get("question_type")))}
    qa = record.get("qa")
    if not isinstance(qa, Mapping):
        raise RejectedRow("malformed field", f"qa is {type(qa).__name__}, not an object")
    question, answer = text_of(qa, "Question"), text_of(qa, "Answer").strip().upper()
    yield {"question": question, "answer": answer}
    options = _options(qa.get("Options"))
    yield {"options": options}
    if not question.strip() or not all(option.strip() for option in options):
        raise RejectedRow("question or option missing", f"found {qa!r}")
    check_uncontrolled(question, *options)
    if answer not in tuple(LETTERS):
        raise RejectedRow("reference is not one letter A-D", f"found {answer!r}")
    # The name refers to the full video; the observed part has the same name in its own folder.
    path = resolve_clip(text_of(record, "video_path").split("video_dataset/", 1)[-1], [videos])
    clip = probed(path, partial(shown_numbers, most=settings.video_frames))
    if settings.layout == "video32" and clip.frames < 2:
        raise RejectedRow("video of a single frame", str(path))
    yield {"path": str(path), "frame_count": clip.frames, "reader": clip.reader}


def _options(held: Any) -> list[str]:
    """The four options in order.  Raises RejectedRow for another number of them, or what is no text and no number."""
    if not isinstance(held, Mapping):
        raise RejectedRow("not four options", f"Options is {type(held).__name__}, not an object of letters")
    options = {letter: option for letter, option in held.items() if option is not None and option == option}  # no NaN
    if sorted(options) != list(LETTERS):
        raise RejectedRow("not four options", f"found {sorted(options)}")
    numbers = {letter: str(option) for letter, option in options.items() if type(option) in (int, float)}
    return [text_of(options | numbers, letter) for letter in LETTERS]


def _content(row: Mapping[str, Any], settings: FutureBenchSettings) -> list[Part]:
    question = row["question"]
    if not all(pattern.search(question) for pattern in _INLINE):
        question = choice.with_options(question, row["options"])
    if settings.layout == "keyframes":
        asked = "\n".join(piece for piece in (settings.prefix, question, settings.suffix) if piece)
        return [text("frame_1"), frame(row["path"], 0, reader=row["reader"]), text(asked)]
    numbers = video_frame_numbers(row["frame_count"], settings.video_frames)
    shown = video(row["path"], numbers, row["reader"], settings.video_tokens)
    return [shown, text(f"{settings.prefix}\n{question}\n{settings.suffix}")]
