"""Items of a benchmark, one by one: what is unreadable about one is its problem, and never the end of the others."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from training.data.keyframes import key_frame_pool
from training.data.probing import Numbers
from training.data.rejection import RejectedRow, rejecting
from training.data.video import UnreadableVideo, VideoInfo, probe

UNREADABLE_ITEM = "unreadable item"


def read_item(blank: Mapping[str, Any], pieces: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One item: `blank`, updated by its pieces as they are read; where one cannot be read, `problem` says why.

    Whatever reading raises about an item is that item's problem; an unexpected exception is named with its place.
    """
    item = dict(blank)
    try:
        with rejecting(UNREADABLE_ITEM):
            for piece in pieces:
                item |= piece
    except RejectedRow as rejected:
        item["problem"] = str(rejected) if rejected.reason == UNREADABLE_ITEM else rejected.reason
    return item


def probe_clip(path: Path, numbers: Numbers = key_frame_pool, kind: str = "video") -> VideoInfo:
    """Facts of an item's clip, of which the frames `numbers` will be read.  Raises RejectedRow for an unreadable one.

    kind: `video`, or `image` for a still image, which is a clip of one frame.
    """
    try:
        return probe(path, numbers)
    except UnreadableVideo as unreadable:
        raise RejectedRow(f"unreadable {kind}", str(unreadable)) from unreadable


def string_field(record: Mapping[str, Any], name: str) -> str:
    """A field of a record.  Raises ValueError where it is absent or no string."""
    value = record.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} is {'absent' if value is None else 'not a string'}")
    return value
