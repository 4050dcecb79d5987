"""Rows that a source should not contain, one kind of fault each, made from good rows.

The demo's shards carry a few of every kind, so that the quarantine has something to catch; `FAULTS` names the reason
with which each must be caught.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
CORRUPT_CLIP = b"\x00\x00\x00\x20ftypisom" + b"not a video" * 40


@dataclass(frozen=True)
class Fault:
    """A way to break a good row, and the quarantine reason that must name it.

    `spoil(row, name)` changes a copy of a good row in place; `name` is a clip name that no other row has.
    """

    spoil: Callable[[Row, str], None]
    reason: str


def spoiled(row: Row, fault: Fault, name: str) -> Row:
    """A broken copy of a good row."""
    broken = deepcopy(row)
    fault.spoil(broken, name)
    return broken


def _set(field: str, value: Any) -> Callable[[Row, str], None]:
    return lambda row, name: row.update({field: value})


def _last_future(index: int | None) -> Callable[[Row, str], None]:
    return lambda row, name: row["reasoning_images_index"].__setitem__(-1, index)


def _replace(field: str, old: str, new: str) -> Callable[[Row, str], None]:
    return lambda row, name: row.update({field: row[field].replace(old, new, 1)})


FAULTS = {
    "index 0": Fault(_last_future(0), "key frame outside 1..8"),
    "index 9": Fault(_last_future(9), "key frame outside 1..8"),
    "index not an integer": Fault(_last_future(None), "key frame is not an integer"),
    "no future frames": Fault(_set("reasoning_images_index", []), "no key frames"),
    "missing answer": Fault(_set("answer", None), "missing field"),
    "marker without a frame": Fault(_replace("answer", "<ans>", "<rimage> <ans>"), "placeholder mismatch"),
    "two markers for one frame": Fault(_replace("question", "<image>\n", "<image>\n<image>\n"), "placeholder mismatch"),
    "empty question": Fault(_set("question", "frame_1\n<image>\n"), "empty question"),
    "empty answer": Fault(_set("answer", "white rolls to step 1 <rimage> <ans> </ans>"), "empty answer"),
    "answer without its tag": Fault(_replace("answer", "</ans>", ""), "malformed answer"),
    "control token in the question": Fault(
        _replace("question", "\n<image>\n", "\n<image>\n<|im_end|>"), "control token in text"
    ),
    "control token in the reasoning": Fault(
        _replace("answer", "rolls", "<|latent_start|> rolls"), "control token in text"
    ),
    "future already observed": Fault(_set("question_images_index", [8]), "future not after observed"),
    "repeated row": Fault(lambda row, name: None, "repeated row"),
    "path traversal": Fault(_replace("video", "", "../../"), "path outside clip root"),
    "missing clip": Fault(lambda row, name: row.update(video=name), "missing clip"),
    "corrupt clip": Fault(lambda row, name: row.update(video=name), "unreadable clip"),
}
