"""The trajectory: one validated row of TwiFF, from observed frames through imagined ones to an answer.

`parse_row` is the only way in.  It reads the published layouts to the same record and says of every other row why it is
rejected: TwiFF-2.7M (`question`, `answer` with `<rimage>` and `<ans>`), Future-L1-50K (`conversations`, `image`,
`reasoning_image`), and TwiFF's training JSONL (`conversations`, `frames`, `recon_frames`, `<ans>` inside the turn).
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from training.data.dialogue import control_in
from training.data.rejection import RejectedRow
from training.data.row_fields import key_frames_of, text_of, time_of, turn_of

IMAGE = "<image>"
CATEGORIES = ("instructional", "predictive", "camera", "other")

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


def marked(question: str, observed: int) -> str:
    """A question with the markers of its observed frames before it, if it has none: the frames come first."""
    if IMAGE in question:
        return question
    return "".join(f"frame_{k}\n{IMAGE}\n" for k in range(1, observed + 1)) + question


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
    return _Content(
        text_of(row, "question"), reasoning, answer, key_frames_of(row, observed), key_frames_of(row, future)
    )


def _conversation_content(row: Mapping[str, Any]) -> _Content:
    reasoning, answer = turn_of(row, "gpt"), row.get("answer")
    if answer is None:  # perhaps a TwiFF turn that was never split
        reasoning, answer = split_answer(reasoning)
    return _Content(
        turn_of(row, "human"),
        reasoning,
        text_of({"answer": answer}, "answer"),
        key_frames_of(row, "image" if "image" in row else "frames"),
        key_frames_of(row, "reasoning_image" if "reasoning_image" in row else "recon_frames"),
    )


def has_words(question: str) -> bool:
    """Whether a question is more than its frames and their labels."""
    return bool(_FRAME_LABEL.sub("", question.replace(IMAGE, "")).strip())


def _trajectory(row: Mapping[str, Any], source: str, content: _Content) -> Trajectory:
    video, answer, observed, future = text_of(row, "video"), content.answer.strip(), content.observed, content.future
    question = marked(content.question.strip(), len(observed))
    pieces = text_pieces(content.reasoning)
    if not video.strip():
        raise RejectedRow("malformed field", "video is empty")
    if not has_words(question):
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
        start=time_of(meta, "start"),
        end=time_of(meta, "end"),
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


def _category(label: Any) -> str:
    """One of CATEGORIES, by how the label begins: TwiFF's exact labels are not published."""
    words = label.strip().lower() if isinstance(label, str) else ""
    return next((name for prefix, name in _CATEGORY_PREFIXES.items() if words.startswith(prefix)), "other")


def _brief(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
