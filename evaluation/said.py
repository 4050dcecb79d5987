"""What an answer says, in pieces for people: reasoning, spans of latents, the answer, and any other text."""

import re
from dataclasses import dataclass
from typing import Literal

_PARTS = re.compile(
    r"<reason>(?P<reason>.*?)</reason>|<answer>(?P<answer>.*?)</answer>"
    r"|<\|latent_start\|>(?P<span>(?:<\|latent\|>)*)(?:<\|latent_end\|>)?",
    re.DOTALL,
)


@dataclass(frozen=True)
class Part:
    """A piece of an answer: text that was reasoned or answered or is neither, or a span (`text` is then empty)."""

    kind: Literal["reason", "answer", "text", "span"]
    text: str = ""
    latents: int = 0


def parts(text: str) -> list[Part]:
    """An answer's text in pieces, in their order; what is in no block is plain text, blank stretches are left out."""
    found: list[Part] = []
    at = 0
    for match in [*_PARTS.finditer(text), None]:
        between = text[at : match.start() if match else None].strip()
        if between:
            found.append(Part("text", between))
        if match:
            at = match.end()
            if match["span"] is not None:
                found.append(Part("span", latents=match["span"].count("<|latent|>")))
            else:
                kind: Literal["reason", "answer"] = "answer" if match["reason"] is None else "reason"
                found.append(Part(kind, match[kind].strip()))
    return found
