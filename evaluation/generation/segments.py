"""The segments of a generated answer: reasoning, spans of latents, the answer, and any other text."""

import re
from dataclasses import dataclass
from typing import Literal, cast

_SPAN = r"<\|latent_start\|>(?P<span>(?:<\|latent\|>)*)(?:<\|latent_end\|>)?"
_SPANS = re.compile(_SPAN)
_OPENING = re.compile(rf"<(?P<block>reason|answer)>|{_SPAN}")

Kind = Literal["reason", "answer", "text", "span"]


@dataclass(frozen=True)
class Segment:
    """A stretch of an answer: of its reasoning, of its answer, of other text, or a span (`text` is then empty)."""

    kind: Kind
    text: str = ""
    latents: int = 0


def segments(text: str) -> list[Segment]:
    """The segments of an answer's text in order; what is in no block is plain text, blank stretches are left out.

    A span inside a block splits it in two, so that every span of the answer is one segment.
    """
    last = {kind: text.rfind(f"</{kind}>") for kind in ("reason", "answer")}
    result: list[Segment] = []
    at = position = 0
    while match := _OPENING.search(text, position):
        position, kind = match.end(), cast(Literal["reason", "answer"] | None, match["block"])
        if kind and last[kind] < position:  # an opening tag that nothing closes is text
            continue
        result += _pieces("text", text[at : match.start()])
        if kind:
            end = text.index(f"</{kind}>", position)
            result += _pieces(kind, text[position:end]) or [Segment(kind)]
            position = end + len(f"</{kind}>")
        else:
            result.append(Segment("span", latents=match["span"].count("<|latent|>")))
        at = position
    return [*result, *_pieces("text", text[at:])]


def _pieces(kind: Kind, text: str) -> list[Segment]:
    """A stretch of one kind, and the spans inside it."""
    result: list[Segment] = []
    at = 0
    for match in [*_SPANS.finditer(text), None]:
        between = text[at : match.start() if match else None].strip()
        if between:
            result.append(Segment(kind, between))
        if match:
            at = match.end()
            result.append(Segment("span", latents=match["span"].count("<|latent|>")))
    return result
