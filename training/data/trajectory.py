"""The trajectory: one validated row of TwiFF, from observed frames through imagined ones to an answer.

`parse_row` is the only way in.  It reads the published layouts to the same record and says of every other row why it is
rejected: TwiFF-2.7M (`question`, `answer` with `<rimage>` and `<ans>`), Future-L1-50K (`conversations`, `image`,
`reasoning_image`), and TwiFF's training JSONL (`conversations`, `frames`, `recon_frames`, `<ans>` inside the turn).
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import dataframely as dy
import polars as pl

from training.data.dialogue import control_in
from training.data.keyframes import KEY_FRAMES
from training.data.rejection import RejectedRow

IMAGE = "<image>"
MAX_TEXT = 20_000
"""Characters of a field: its text goes to models, endpoints and judges, and through patterns."""
CATEGORIES = ("instructional", "predictive", "camera", "other")
MAX_TIME = 64
SOURCE_SAMPLES = 8
"""Answers a condition behind the counts that Future-L1-50K brings."""
SOURCE_COUNT_COLUMNS = ("correct_in_8_base", "correct_in_8_hint", "gain")

_FUTURE_MARKER = re.compile(r"<r?image>")  # TwiFF writes <rimage>, Future-L1-50K <image>
_THOUGHT_PREFIX = re.compile(r"THOUGHT\s*\d+:[ \t]*")
_FRAME_LABEL = re.compile(r"frame_\d+")
_DATA_MARKER = re.compile(r"(?i)</?r?image>|</?ans>|<video>")
_CATEGORY_PREFIXES = {"instruct": "instructional", "predict": "predictive", "camera": "camera"}


@dataclass(frozen=True)
class Trajectory:
    """One question about a clip, the text and future key frames that lead to its answer, and the answer.

    `reasoning` has one piece of text before each future frame and one after the last ("" where there is none);
    `observed` and `future` are key-frame indices 1..8, in the order of their `<image>` markers.
    """

    row_id: str
    source: str
    video: str
    question: str
    reasoning: tuple[str, ...]
    answer: str
    observed: tuple[int, ...]
    future: tuple[int, ...]
    category: str
    start: str | None
    end: str | None


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


def parse_row(row: Mapping[str, Any], source: str, number: int) -> Trajectory:
    """The trajectory in one source row, in any of the layouts.

    A plain question, without a marker, gets one for each observed frame before it: a row and its plain twin have one
    content, and so one id.
    `source` is the shard's name and `number` the row in it, for messages.  Raises RejectedRow with a reason.
    """
    try:
        content = _conversation_content(row) if "conversations" in row else _twiff_content(row)
        return _trajectory(row, source, content)
    except RejectedRow as rejected:
        rejected.add_note(f"{source}, row {number}")
        raise


def split_answer(text: str) -> tuple[str, str | None]:
    """TwiFF's text in two: the reasoning, and the answer inside the `<ans>` at its end, None where there is none."""
    whole = text.rstrip()
    reasoning, opening, answer = whole.removesuffix("</ans>").rpartition("<ans>")
    return (reasoning, answer) if opening and whole.endswith("</ans>") else (text, None)


def text_pieces(reasoning: str) -> tuple[str, ...]:
    """The text before each future frame's marker and after the last, without "THOUGHT n:"."""
    return tuple(_THOUGHT_PREFIX.sub("", piece).strip() for piece in _FUTURE_MARKER.split(reasoning))


def text_of(row: Mapping[str, Any], name: str) -> str:
    """A field that must hold text.  Raises RejectedRow."""
    value = row.get(name)
    if value is None:
        raise RejectedRow("missing field", f"{name} is absent")
    if not isinstance(value, str):
        raise RejectedRow("malformed field", f"{name} is {type(value).__name__}, not text")
    if len(value) > MAX_TEXT:
        raise RejectedRow("text too long", f"{name} has {len(value)} characters; at most {MAX_TEXT} are read")
    return _clean(name, value)


def marked(question: str, observed: int) -> str:
    """A question with the markers of its observed frames before it, if it has none: the frames come first."""
    if IMAGE in question:
        return question
    return "".join(f"frame_{k}\n{IMAGE}\n" for k in range(1, observed + 1)) + question


def turn_of(row: Mapping[str, Any], speaker: str) -> str:
    """The text of the first turn of `speaker` ("human", "gpt") in `conversations`.  Raises RejectedRow."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise RejectedRow("malformed field", "conversations is not a list of turns")
    first = next((turn for turn in turns if turn.get("from") == speaker), None)
    if first is None:
        raise RejectedRow("missing field", f"conversations has no {speaker} turn")
    return text_of(first, "value")


def key_frame_indices(name: str, values: Any) -> tuple[int, ...]:
    """The field `name` as key-frame indices 1..8, any number of them.  Raises RejectedRow."""
    if not isinstance(values, list):
        raise RejectedRow("malformed field", f"{name} is {type(values).__name__}, not a list")
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool):
            raise RejectedRow("key frame is not an integer", f"{name} holds {value!r:.60}")
        if not 1 <= value <= KEY_FRAMES:
            raise RejectedRow("key frame outside 1..8", f"{name} holds {value}")
    return tuple(values)


def source_counts(row: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """p_t and p_v that an already selected row brings (`correct_in_8_base`, `correct_in_8_hint`); None without them.

    Whole numbers that are stored as floats count, and NaN is null: that is how a column of integers with nulls is
    often written.  Raises RejectedRow for counts that cannot be, or a `gain` that is not their difference.
    """
    p_t, p_v, gain = (_count(row, name) for name in SOURCE_COUNT_COLUMNS)
    if p_t is None and p_v is None:
        return None, None
    if p_t is None or p_v is None or not (0 <= p_t <= SOURCE_SAMPLES and 0 <= p_v <= SOURCE_SAMPLES):
        detail = f"{p_t} right without and {p_v} with the hint, of {SOURCE_SAMPLES} each"
        raise RejectedRow("impossible counts", detail)
    if gain is not None and gain != p_v - p_t:
        raise RejectedRow("impossible counts", f"gain is {gain}, and {p_v} - {p_t} is {p_v - p_t}")
    return p_t, p_v


class _Content(NamedTuple):
    """A trajectory as its layout has it: the reasoning still has its markers."""

    question: str
    reasoning: str
    answer: str
    observed: tuple[int, ...]
    future: tuple[int, ...]


def _twiff_content(row: Mapping[str, Any]) -> _Content:
    answer_field = text_of(row, "answer")
    if not answer_field.strip():
        raise RejectedRow("empty answer", "the answer field holds no text")
    reasoning, answer = split_answer(answer_field)
    if answer is None:
        raise RejectedRow("malformed answer", f"needs one <ans>...</ans> at its end; found {_brief(answer_field)}")
    observed, future = "question_images_index", "reasoning_images_index"
    return _Content(text_of(row, "question"), reasoning, answer, _indices(row, observed), _indices(row, future))


def _conversation_content(row: Mapping[str, Any]) -> _Content:
    reasoning, answer = turn_of(row, "gpt"), row.get("answer")
    if answer is None:  # perhaps a TwiFF turn that was never split
        reasoning, answer = split_answer(reasoning)
    return _Content(
        turn_of(row, "human"),
        reasoning,
        text_of({"answer": answer}, "answer"),
        _indices(row, "image" if "image" in row else "frames"),
        _indices(row, "reasoning_image" if "reasoning_image" in row else "recon_frames"),
    )


def _trajectory(row: Mapping[str, Any], source: str, content: _Content) -> Trajectory:
    video, answer, observed, future = text_of(row, "video"), content.answer.strip(), content.observed, content.future
    question = marked(content.question.strip(), len(observed))
    pieces = text_pieces(content.reasoning)
    if not video.strip():
        raise RejectedRow("malformed field", "video is empty")
    if not _FRAME_LABEL.sub("", question.replace(IMAGE, "")).strip():
        raise RejectedRow("empty question", f"no words in {_brief(question)}")
    if not answer:
        raise RejectedRow("empty answer", "nothing inside the answer")
    for name, text in (("question", question), ("reasoning", "\n".join(pieces)), ("answer", answer)):
        if control := control_in(text):
            raise RejectedRow("control token in text", f"{name} carries {control}")
    _check_markers(question, pieces, answer, len(observed), len(future))
    if min(future) <= max(observed):
        raise RejectedRow("future not after observed", f"observed {list(observed)}, future {list(future)}")
    meta = row.get("meta_data") or {}
    if not isinstance(meta, Mapping):
        raise RejectedRow("malformed field", f"meta_data is {type(meta).__name__}, not a struct")
    return Trajectory(
        row_id=_row_id(video, question, pieces, answer, observed, future),
        source=source,
        video=video,
        question=question,
        reasoning=pieces,
        answer=answer,
        observed=observed,
        future=future,
        category=_category(meta.get("classification")),
        start=_time(meta, "start"),
        end=_time(meta, "end"),
    )


def _check_markers(question: str, pieces: tuple[str, ...], answer: str, observed: int, future: int) -> None:
    if question.count(IMAGE) != observed:
        detail = f"question has {question.count(IMAGE)} {IMAGE} markers for {observed} observed frames"
        raise RejectedRow("placeholder mismatch", detail)
    if len(pieces) - 1 != future:
        detail = f"reasoning has {len(pieces) - 1} future markers for {future} future frames"
        raise RejectedRow("placeholder mismatch", detail)
    for text in (question.replace(IMAGE, ""), *pieces, answer):
        if stray := _DATA_MARKER.search(text):
            raise RejectedRow("placeholder mismatch", f"stray {stray[0]} in {_brief(text)}")


def _row_id(*content: Any) -> str:
    """The row's identity: the same content has the same id in either layout and whatever the shard."""
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:16]


def _clean(name: str, value: str) -> str:
    """Text that every table and file system can hold: JSON escapes can say what UTF-8 cannot."""
    if "\0" in value:
        raise RejectedRow("malformed field", f"{name} holds a NUL character")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise RejectedRow("malformed field", f"{name} holds half a character (a lone surrogate)") from None
    return value


def _indices(row: Mapping[str, Any], name: str) -> tuple[int, ...]:
    values = row.get(name)
    if values is None:
        raise RejectedRow("missing field", f"{name} is absent")
    indices = key_frame_indices(name, values)
    if not indices:
        raise RejectedRow("no key frames", f"{name} is empty")
    if len(indices) > KEY_FRAMES:
        raise RejectedRow("malformed field", f"{name} holds {len(indices)} indices; a clip has {KEY_FRAMES} key frames")
    return indices


def _category(label: Any) -> str:
    """One of CATEGORIES, by how the label begins: TwiFF's exact labels are not published."""
    words = label.strip().lower() if isinstance(label, str) else ""
    return next((name for prefix, name in _CATEGORY_PREFIXES.items() if words.startswith(prefix)), "other")


def _time(meta: Mapping[str, Any], name: str) -> str | None:
    value = meta.get(name)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, Mapping | list | bytes):
        raise RejectedRow("malformed field", f"{name} is {type(value).__name__}, not a time")
    if len(text := str(value)) > MAX_TIME:
        raise RejectedRow("malformed field", f"{name} has {len(text)} characters, too many for a time")
    return _clean(name, text)


def _count(row: Mapping[str, Any], name: str) -> int | None:
    value = row.get(name)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise RejectedRow("impossible counts", f"{name} is {value!r}, not a whole number")
    return int(value)


def _brief(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
