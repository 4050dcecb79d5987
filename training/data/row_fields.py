"""Fields of rows that nobody here made: each as the type that it must have, or RejectedRow with what was found."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from training.data.keyframes import KEY_FRAMES
from training.data.rejection import RejectedRow

MAX_TEXT = 20_000
"""Characters of a field: its text goes to models, endpoints and judges, and through patterns."""
MAX_TIME = 64
SOURCE_SAMPLES = 8
"""Answers a condition behind the counts that Future-L1-50K brings."""
SOURCE_COUNT_COLUMNS = ("correct_in_8_base", "correct_in_8_hint", "gain")


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


def text_about(row: Mapping[str, Any], name: str) -> str | None:
    """A field with text about the clip, None where it is missing.

    No model reads it, so a value of another type rejects no row: it is kept as JSON.  Raises RejectedRow for text that
    a table cannot hold.
    """
    value = row.get(name)
    if _is_missing(value):
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text_of({name: text}, name)


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


def key_frames_of(row: Mapping[str, Any], name: str) -> tuple[int, ...]:
    """A field that must hold one to eight key-frame indices 1..8.  Raises RejectedRow."""
    values = row.get(name)
    if values is None:
        raise RejectedRow("missing field", f"{name} is absent")
    indices = key_frame_indices(name, values)
    if not indices:
        raise RejectedRow("no key frames", f"{name} is empty")
    if len(indices) > KEY_FRAMES:
        raise RejectedRow("malformed field", f"{name} holds {len(indices)} indices; a clip has {KEY_FRAMES} key frames")
    return indices


def time_of(meta: Mapping[str, Any], name: str) -> str | None:
    """A field that may hold a time, as text.  Raises RejectedRow."""
    value = meta.get(name)
    if _is_missing(value):
        return None
    if isinstance(value, Mapping | list | bytes):
        raise RejectedRow("malformed field", f"{name} is {type(value).__name__}, not a time")
    if len(text := str(value)) > MAX_TIME:
        raise RejectedRow("malformed field", f"{name} has {len(text)} characters, too many for a time")
    return _clean(name, text)


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


def unique_id(name: str, counts: Counter[str]) -> str:
    """An item's id: its name, with a number after it where an earlier item has that id; `counts` counts the ids."""
    counts[name] += 1
    while counts[name] > 1:
        name = f"{name}#{counts[name]}"
        counts[name] += 1
    return name


def bounded_text(value: Any) -> str | None:
    """A value as text that a table can hold, for fields that are recorded even if the item is unusable."""
    return None if value is None else str(value)[:MAX_TEXT].encode(errors="replace").decode()


def _count(row: Mapping[str, Any], name: str) -> int | None:
    value = row.get(name)
    if _is_missing(value):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise RejectedRow("impossible counts", f"{name} is {value!r}, not a whole number")
    return int(value)


def _is_missing(value: Any) -> bool:
    """Whether a field is null, also as tables of floats write it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


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
