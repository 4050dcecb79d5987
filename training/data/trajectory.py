"""The trajectory: one validated row of TwiFF, from observed frames through imagined ones to an answer.

`parse_row` is the only way in.  It reads both published layouts, TwiFF-2.7M (`question`, `answer` with `<rimage>` and
`<ans>`) and Future-L1-50K (`conversations`), to the same record, and says of every other row why it is rejected.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import dataframely as dy
import polars as pl

from training.data.keyframes import KEY_FRAMES
from training.data.text import control_in

IMAGE = "<image>"
CATEGORIES = ("instructional", "predictive", "camera", "other")

_FUTURE_MARKER = re.compile(r"<r?image>")  # TwiFF writes <rimage>, Future-L1-50K <image>
_THOUGHT_PREFIX = re.compile(r"THOUGHT\s*\d+:[ \t]*")
_FRAME_LABEL = re.compile(r"frame_\d+")
_ANSWER = re.compile(r"(?s)(.*)<ans>(.*)</ans>\s*")
_DATA_MARKER = re.compile(r"(?i)</?r?image>|</?ans>|<video>")


class RejectedRow(ValueError):  # noqa: N818 - a row's fate, not a failure of the program
    """A source row that is not a trajectory: `reason` is a short class to count by, `detail` says what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


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

    row_id = dy.String(primary_key=True, regex="^[0-9a-f]{16}$")
    source = dy.String(min_length=1)
    video = dy.String(min_length=1)
    question = dy.String(min_length=1)
    reasoning = dy.List(dy.String(), min_length=2, max_length=KEY_FRAMES + 1)
    answer = dy.String(min_length=1)
    observed = dy.List(dy.Int64(min=1, max=KEY_FRAMES), min_length=1, max_length=KEY_FRAMES)
    future = dy.List(dy.Int64(min=1, max=KEY_FRAMES), min_length=1, max_length=KEY_FRAMES)
    category = dy.String(regex=f"^({'|'.join(CATEGORIES)})$")
    start = dy.String(nullable=True)
    end = dy.String(nullable=True)

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
    """The trajectory in one source row (TwiFF-2.7M or Future-L1-50K layout).

    `source` is the shard's name and `number` the row in it, for messages.  Raises RejectedRow with a reason.
    """
    try:
        return _parse_conversation(row, source) if "conversations" in row else _parse_twiff(row, source)
    except RejectedRow as rejected:
        rejected.add_note(f"{source}, row {number}")
        raise


def to_frame(trajectories: Iterable[Trajectory]) -> dy.DataFrame[TrajectoryTable]:
    """Trajectories as a validated table."""
    rows = [asdict(t) for t in trajectories]
    return TrajectoryTable.validate(pl.DataFrame(rows, schema=TrajectoryTable.create_empty().schema))


def from_rows(table: pl.DataFrame) -> list[Trajectory]:
    """The trajectories of a table that has at least the columns of `TrajectoryTable`."""
    names = [f.name for f in fields(Trajectory)]
    found = []
    for row in table.select(names).iter_rows(named=True):
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in row.items()}
        found.append(Trajectory(**values))
    return found


def _parse_twiff(row: Mapping[str, Any], source: str) -> Trajectory:
    answer_field = _text(row, "answer")
    if not answer_field.strip():
        raise RejectedRow("empty answer", "the answer field holds no text")
    match = _ANSWER.fullmatch(answer_field)
    if match is None:
        raise RejectedRow("malformed answer", f"needs one <ans>...</ans> at its end; found {_brief(answer_field)}")
    return _build(
        row,
        source,
        question=_text(row, "question"),
        reasoning=match[1],
        answer=match[2],
        observed=_indices(row, "question_images_index"),
        future=_indices(row, "reasoning_images_index"),
    )


def _parse_conversation(row: Mapping[str, Any], source: str) -> Trajectory:
    reasoning, answer = _turn(row, "gpt"), row.get("answer")
    if answer is None and (match := _ANSWER.fullmatch(reasoning)):  # a TwiFF turn that was never split
        reasoning, answer = match[1], match[2]
    return _build(
        row,
        source,
        question=_turn(row, "human"),
        reasoning=reasoning,
        answer=_text({"answer": answer}, "answer"),
        observed=_indices(row, "image"),
        future=_indices(row, "reasoning_image"),
    )


def _build(
    row: Mapping[str, Any],
    source: str,
    *,
    question: str,
    reasoning: str,
    answer: str,
    observed: tuple[int, ...],
    future: tuple[int, ...],
) -> Trajectory:
    video, question, answer = _text(row, "video"), question.strip(), answer.strip()
    pieces = tuple(_THOUGHT_PREFIX.sub("", piece).strip() for piece in _FUTURE_MARKER.split(reasoning))
    if not video.strip():
        raise RejectedRow("malformed field", "video is empty")
    if not _FRAME_LABEL.sub("", question.replace(IMAGE, "")).strip():
        raise RejectedRow("empty question", f"no words in {_brief(question)}")
    if not answer:
        raise RejectedRow("empty answer", "nothing inside the answer")
    for name, text in (("question", question), ("reasoning", "\n".join(pieces)), ("answer", answer)):
        if control := control_in(text):
            raise RejectedRow("control token in text", f"{name} carries {control}")
    _check_markers(question, pieces, answer, observed, future)
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
        start=_optional_text(meta.get("start")),
        end=_optional_text(meta.get("end")),
    )


def _check_markers(
    question: str, pieces: tuple[str, ...], answer: str, observed: tuple[int, ...], future: tuple[int, ...]
) -> None:
    if question.count(IMAGE) != len(observed):
        detail = f"question has {question.count(IMAGE)} {IMAGE} markers for {len(observed)} observed frames"
        raise RejectedRow("placeholder mismatch", detail)
    if len(pieces) - 1 != len(future):
        detail = f"reasoning has {len(pieces) - 1} future markers for {len(future)} future frames"
        raise RejectedRow("placeholder mismatch", detail)
    for text in (question.replace(IMAGE, ""), *pieces, answer):
        if stray := _DATA_MARKER.search(text):
            raise RejectedRow("placeholder mismatch", f"stray {stray[0]} in {_brief(text)}")


def _row_id(*content: Any) -> str:
    """The row's identity: the same content has the same id in either layout and whatever the shard."""
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:16]


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        raise RejectedRow("missing field", f"{name} is absent")
    if not isinstance(value, str):
        raise RejectedRow("malformed field", f"{name} is {type(value).__name__}, not text")
    if "\0" in value:
        raise RejectedRow("malformed field", f"{name} holds a NUL character")
    return value


def _turn(row: Mapping[str, Any], speaker: str) -> str:
    turns = row.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise RejectedRow("malformed field", "conversations is not a list of turns")
    first = next((turn for turn in turns if turn.get("from") == speaker), None)
    if first is None:
        raise RejectedRow("missing field", f"conversations has no {speaker} turn")
    return _text(first, "value")


def _indices(row: Mapping[str, Any], name: str) -> tuple[int, ...]:
    values = row.get(name)
    if values is None:
        raise RejectedRow("missing field", f"{name} is absent")
    if not isinstance(values, list):
        raise RejectedRow("malformed field", f"{name} is {type(values).__name__}, not a list")
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool):
            raise RejectedRow("key frame is not an integer", f"{name} holds {value!r}")
        if not 1 <= value <= KEY_FRAMES:
            raise RejectedRow("key frame outside 1..8", f"{name} holds {value}")
    if not values:
        raise RejectedRow("no key frames", f"{name} is empty")
    if len(values) > KEY_FRAMES:
        raise RejectedRow("malformed field", f"{name} holds {len(values)} indices; a clip has {KEY_FRAMES} key frames")
    return tuple(values)


def _category(label: Any) -> str:
    """One of CATEGORIES; TwiFF's exact labels are not published, so the word decides."""
    words = str(label).lower()
    stems = {"instructional": "instruct", "predictive": "predict", "camera": "camera"}
    return next((category for category, stem in stems.items() if stem in words), "other")


def _optional_text(value: Any) -> str | None:
    return None if value is None else str(value)


def _brief(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
