"""What a page of the explorer shows, as a link names it: an item, and the edits of its answer in order."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import parse_qs, quote

EditKind = Literal["zeros", "noise", "other_item", "future", "cut", "forbid", "hide", "add", "no_frames"]
EDIT_LABELS: dict[EditKind, str] = {
    "zeros": "zeros in its place",
    "noise": "noise in its place",
    "other_item": "another item's latents in its place",
    "future": "the true future frame in its place",
    "cut": "nothing in it",
    "forbid": "no spans from here on",
    "hide": "frames hidden after it",
    "add": "one more span before the answer",
    "no_frames": "grey pictures for the frames",
}
WHOLE_ANSWER: tuple[EditKind, ...] = ("add", "no_frames")
"""Edits that a link has without a span."""
MAX_EDITS = 8
_EDIT = re.compile(r"([a-z_]{1,20})(?:\.([0-9]{1,3}))?")


@dataclass(frozen=True)
class Edit:
    """One change of an answer; `span` counts from 1, and is 0 where the edit is about no span, or adds one."""

    kind: EditKind
    span: int = 0

    @property
    def label(self) -> str:
        """For people."""
        return f"span {self.span}: {EDIT_LABELS[self.kind]}" if self.span else EDIT_LABELS[self.kind]

    def __str__(self) -> str:
        return f"{self.kind}.{self.span}" if self.span else self.kind


@dataclass(frozen=True)
class State:
    """An item by its key, and the edits of its answer."""

    item: str
    edits: tuple[Edit, ...] = ()

    @property
    def fragment(self) -> str:
        """The state as the part of a link behind `#`; `read_state` reads it."""
        edits = f"&edits={','.join(map(str, self.edits))}" if self.edits else ""
        return f"item={quote(self.item, safe='/:')}{edits}"


def read_state(link: str) -> State:
    """The state that a link, or its fragment, names.  Raises ValueError where it names none."""
    fields = parse_qs(link.rpartition("#")[2], max_num_fields=8, keep_blank_values=True)
    items = fields.get("item", [])
    if len(items) != 1 or not items[0]:
        raise ValueError(f"a state is `item=KEY` and maybe `&edits=zeros.1,cut.2`; found {link[:200]!r}")
    return State(items[0], read_edits("".join(fields.get("edits", []))))


def read_edits(text: str) -> tuple[Edit, ...]:
    """Edits as a link has them, with commas between.  Raises ValueError for what is none, and for too many."""
    names = text.split(",") if text else []
    if len(names) > MAX_EDITS:
        raise ValueError(f"{len(names)} edits; at most {MAX_EDITS} can be made one after the other")
    return tuple(map(_edit, names))


def _edit(text: str) -> Edit:
    match = _EDIT.fullmatch(text)
    kinds: Sequence[EditKind] = get_args(EditKind)
    for kind in kinds:
        if match and match[1] == kind and (int(match[2] or 0) > 0) != (kind in WHOLE_ANSWER):
            return Edit(kind, int(match[2] or 0))
    raise ValueError(f"{text[:40]!r} is no edit: want KIND.SPAN with a span from 1, as zeros.1, of {', '.join(kinds)} "
                     f"({' and '.join(WHOLE_ANSWER)} without a span)")  # fmt: skip
