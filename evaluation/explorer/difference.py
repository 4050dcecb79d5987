"""What differs between the answers before and after an edit, block by block and word by word."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from evaluation.generation.segments import Segment

Piece = tuple[str, bool]
"""A run of text, and whether it differs."""
MAX_WORDS = 400
"""Of a block that is compared word by word; a longer one differs as a whole."""
_WORDS = re.compile(r"\S+\s*|\s+")


@dataclass(frozen=True)
class Block:
    """A segment as the page shows it: its runs of text, and whether anything in it differs.

    `number`: of a span, from 1; 0 for text.
    """

    segment: Segment
    pieces: Sequence[Piece] = field(default_factory=list)
    differs: bool = False
    number: int = 0


def blocks(segments: Sequence[Segment], other: Sequence[Segment] | None = None) -> list[Block]:
    """The segments as blocks; what is not in the `other` answer differs (None: there is nothing to compare with)."""
    result, spans = [], 0
    partners = _partners(segments, other) if other is not None else dict(enumerate(segments))
    for place, segment in enumerate(segments):
        spans += segment.kind == "span"
        partner = partners.get(place)
        pieces = _pieces(segment.text, partner.text if partner else "")
        result.append(Block(segment, pieces, segment != partner, spans if segment.kind == "span" else 0))
    return result


def _partners(segments: Sequence[Segment], other: Sequence[Segment]) -> dict[int, Segment]:
    """The other answer's segment that stands for each one: the same, else one of its kind at the same place between
    those that are the same."""
    partners: dict[int, Segment] = {}
    for _, begin, end, start, stop in SequenceMatcher(None, segments, other, autojunk=False).get_opcodes():
        pairs = zip(range(begin, end), other[start:stop], strict=False)
        partners |= {place: segment for place, segment in pairs if segment.kind == segments[place].kind}
    return partners


def _pieces(text: str, other: str) -> list[Piece]:
    if not text or text == other:
        return [(text, False)] if text else []
    words, others = _WORDS.findall(text), _WORDS.findall(other)
    if max(len(words), len(others)) > MAX_WORDS:
        return [(text, True)]
    matcher = SequenceMatcher(None, words, others, autojunk=False)
    return [("".join(words[begin:end]), kind != "equal") for kind, begin, end, _, _ in matcher.get_opcodes()
            if end > begin]  # fmt: skip
