"""Records of a JSON file, to inspect or to predict from, read as liberally as they can be rendered.

`parse_row` decides what is trained on; here a row that it would reject is shown all the same, beside the reason.  Any
layout is read: the release's and TwiFF's conversations, TwiFF's parquet columns, our own tables, and plain questions.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.keyframes import key_frame_number
from training.data.rejection import RejectedRow, rejecting
from training.data.row_clips import with_clip
from training.data.row_fields import key_frame_indices, text_of, time_of, turn_of
from training.data.trajectory import IMAGE, marked, parse_row, split_answer, text_pieces

OBSERVED = ("image", "frames", "question_images_index", "observed")
FUTURE = ("reasoning_image", "recon_frames", "reasoning_images_index", "future")
FIELDS = {
    "id", "row_id", "video", "path", "question", "conversations", "reasoning", "answer", "meta_data", "start", "end",
    *OBSERVED, *FUTURE,
}  # fmt: skip
"""All fields of a record that are read."""
_TWIFF = ("question_images_index", "reasoning_images_index")
_TABLE_COLUMNS = ("reasoning", "observed", "future")


@dataclass(frozen=True)
class Record:
    """A record by its name; `row` is what training.model.rows.RowReader reads.

    problem: why the pull would reject it, None if it would not.
    """

    name: str | int
    row: dict[str, Any]
    problem: str | None = None

    def frame_numbers(self, kind: str) -> list[int]:
        """The frames of the clip, counted from 0, that are `observed` or `future`."""
        if self.row["frames"]:
            return self.row["frames"] if kind == "observed" else []
        return [key_frame_number(self.row["frame_count"], index) for index in self.row[kind]]


def load_records(path: Path) -> list[Any]:
    """The records of a JSON file: the items of its list, its one record, or those of JSON lines.

    Raises ValueError, naming the file, when it is none of them or holds nothing.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = _json_lines(text) if _has_lines(text) else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no list of records, no record and no JSON lines: {error}") from error
    values = values if isinstance(values, list) else [values]
    if not values:
        raise ValueError(f"{path} holds no records: put at least one into it")
    return values


def name_of(value: Any, number: int) -> str | int:
    """A record's id, else its number in the file, from 0."""
    ids = (value.get(name) for name in ("id", "row_id")) if isinstance(value, Mapping) else ()
    return next((i for i in ids if isinstance(i, str | int) and not isinstance(i, bool) and i != ""), number)


def record_row(value: Any, number: int, folder: Path, clips: Path | None = None) -> dict[str, Any]:
    """A whole record as a row: question, reasoning with its future frames, and answer.  No file is opened.

    Clips lie inside the folder `clips`; where it is None, relative to `folder`.  Raises ValueError, saying what was
    found, for what cannot be rendered: a key frame outside 1..8, markers that do not match the future frames.
    """
    record = _mapping(value)
    question, observed, frames = _question(record)
    pieces, answer = _answer(record)
    future = _key_frames(record, FUTURE)
    if len(pieces) - 1 != len(future):
        raise ValueError(f"the reasoning has {len(pieces) - 1} future markers for {len(future)} future frames")
    content = {"question": question, "reasoning": pieces, "answer": answer, "observed": observed, "future": future}
    return _placed(record, content | {"frames": frames}, number, folder, clips)


def read_record(value: Any, number: int, folder: Path) -> Record:
    """A whole record, its clip probed.  Raises ValueError as `record_row` does, and for a clip that cannot be read."""
    row = with_clip(record_row(value, number, folder))
    return Record(name_of(value, number), row, _problem(value, row, folder.name, number))


def read_prompt(value: Any, number: int, folder: Path) -> Record:
    """A record's question and observed frames alone; `{"question"}` and `{"video", "frames", "question"}` do, too.

    A plain question without markers gets one for each frame.  Raises ValueError as `read_record` does.
    """
    question, observed, frames = _question(_mapping(value))
    content = {"question": question, "reasoning": ("",), "answer": "", "observed": observed, "future": ()}
    row = _placed(value, content | {"frames": frames}, number, folder, None)
    return Record(name_of(value, number), with_clip(row))


def _has_lines(text: str) -> bool:
    """Whether the first line is a record of its own, and not the whole text."""
    first, _, more = text.strip().partition("\n")
    try:
        return bool(more) and isinstance(json.loads(first), dict)
    except json.JSONDecodeError:
        return False


def _json_lines(text: str) -> list[Any]:
    values = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            values += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number}: {error}") from error
    return values


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"a record is an object with fields; found {type(value).__name__}")
    return value


def _question(row: Mapping[str, Any]) -> tuple[str, tuple[int, ...], list[int]]:
    """The question, the key frames that it is about, and frame numbers where they are no key frames."""
    question = turn_of(row, "human") if "conversations" in row else text_of(row, "question")
    in_table = "conversations" not in row and any(name in row for name in _TABLE_COLUMNS)
    if in_table and row.get("frames"):  # in our own tables `frames` are numbers of displayed frames
        frames = _frame_numbers(row["frames"])
        return marked(question, len(frames)), (), frames
    observed = _key_frames(row, ("observed",) if in_table else OBSERVED)
    return marked(question, len(observed)), observed, []


def _answer(row: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """The text around the future frames, and the answer ("" where there is none)."""
    whole = text_of(row, "answer") if row.get("answer") is not None else ""
    if "conversations" in row:
        reasoning, answer = turn_of(row, "gpt"), whole
        if not answer.strip():  # a TwiFF turn that was never split
            reasoning, inside = split_answer(reasoning)
            answer = inside or ""
        return text_pieces(reasoning), answer
    if any(name in row for name in _TABLE_COLUMNS):
        pieces = row.get("reasoning") or [""]
        if not isinstance(pieces, list):
            raise RejectedRow("malformed field", f"reasoning is {type(pieces).__name__}, not a list of texts")
        return tuple(text_of({"reasoning": piece}, "reasoning") for piece in pieces), whole
    reasoning, inside = split_answer(whole)
    if inside is None and not any(name in row for name in _TWIFF):  # a plain answer to a plain question
        return ("",), whole
    return text_pieces(reasoning), inside or ""


def _key_frames(row: Mapping[str, Any], names: tuple[str, ...]) -> tuple[int, ...]:
    """The first of the fields that is there; no frames where none is."""
    name = next((name for name in names if row.get(name) is not None), None)
    return key_frame_indices(name, row[name]) if name else ()


def _frame_numbers(values: Any) -> list[int]:
    if not isinstance(values, list) or not all(type(value) is int and value >= 0 for value in values):
        raise RejectedRow("malformed field", f"frames is not a list of frame numbers: {values!r:.60}")
    return values


def _placed(
    record: Mapping[str, Any], content: dict[str, Any], number: int, folder: Path, clips: Path | None
) -> dict[str, Any]:
    """The row with where its clip lies, where it shows frames (training.data.row_clips)."""
    placed = {"row_id": str(number), **content, "path": "", "frame_count": 0, "reader": "sequential"}
    if not (content["observed"] or content["future"] or content["frames"]):
        return placed
    name = "path" if record.get("path") and clips is None else "video"
    value = record.get(name)
    if isinstance(value, list) and len(value) == 1:  # as the release's readme has it
        (value,) = value
    video = text_of({name: value}, name)
    if clips is None:
        return placed | {"path": str(folder.absolute() / video), "frame_count": None}
    meta = record.get("meta_data")
    times = meta if isinstance(meta, Mapping) else record
    return placed | {"video": video, "clips": str(clips), "frame_count": None} | {
        name: time_of(times, name) for name in ("start", "end")
    }


def _problem(row: Mapping[str, Any], content: dict[str, Any], source: str, number: int) -> str | None:
    """The reason why the pull would reject the record, in any layout; our own rows are read as the release's."""
    if "conversations" not in row and any(name in row for name in _TABLE_COLUMNS):
        turns = [("human", content["question"]), ("gpt", IMAGE.join(content["reasoning"]))]
        row = {
            "video": row.get("video"),
            "conversations": [{"from": speaker, "value": text} for speaker, text in turns],
            "image": list(content["observed"]),
            "reasoning_image": list(content["future"]),
            "answer": content["answer"],
        }
    try:
        with rejecting("unreadable row"):
            parse_row(row, source, number)
    except RejectedRow as rejected:
        return str(rejected)
    return None
