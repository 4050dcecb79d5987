"""What an answer says, in pieces for people: reasoning, spans of latents, the answer, and any other text."""

import re
from dataclasses import dataclass
from typing import Literal, cast

_SPAN = r"<\|latent_start\|>(?P<span>(?:<\|latent\|>)*)(?:<\|latent_end\|>)?"
_SPANS = re.compile(_SPAN)
_OPENING = re.compile(rf"<(?P<block>reason|answer)>|{_SPAN}")

Kind = Literal["reason", "answer", "text", "span"]


@dataclass(frozen=True)
class Part:
    """A piece of an answer: text that was reasoned or answered or is neither, or a span (`text` is then empty)."""

    kind: Kind
    text: str = ""
    latents: int = 0


def parts(text: str) -> list[Part]:
    """An answer's text in pieces, in their order; what is in no block is plain text, blank stretches are left out.

    A span inside a block parts it in two, so that every span of the answer is one piece.
    """
    last = {kind: text.rfind(f"</{kind}>") for kind in ("reason", "answer")}
    found: list[Part] = []
    at = looked = 0
    while match := _OPENING.search(text, looked):
        looked, kind = match.end(), cast(Literal["reason", "answer"] | None, match["block"])
        if kind and last[kind] < looked:  # an opening tag that nothing closes is text
            continue
        found += _pieces("text", text[at : match.start()])
        if kind:
            end = text.index(f"</{kind}>", looked)
            found += _pieces(kind, text[looked:end]) or [Part(kind)]
            looked = end + len(f"</{kind}>")
        else:
            found.append(Part("span", latents=match["span"].count("<|latent|>")))
        at = looked
    return [*found, *_pieces("text", text[at:])]


def _pieces(kind: Kind, text: str) -> list[Part]:
    """A stretch of one kind, and the spans inside it."""
    found: list[Part] = []
    at = 0
    for match in [*_SPANS.finditer(text), None]:
        between = text[at : match.start() if match else None].strip()
        if between:
            found.append(Part(kind, between))
        if match:
            at = match.end()
            found.append(Part("span", latents=match["span"].count("<|latent|>")))
    return found
