"""The grammar of a response: (reason span?)+ answer.

A reason and the answer hold plain, non-blank text and no marker; a span holds latents and nothing else; only white
space may stand between blocks.  What is a span is decided by the tokens and not by their text, in which a model can
spell a marker letter by letter.  The release checks this with regular expressions over the text and accepts two
answers, empty blocks, nested blocks and text inside a span (reference/rl.md 2.2); here each of those is malformed.
"""

import re
from collections.abc import Sequence

SPAN = None
"""Stands for a whole latent span among the runs of text of a response."""

Runs = Sequence[str | None]

_MARKER = re.compile(r"(<\|[^|<>]*\|>|</?(?:reason|answer)\b[^<>]*>)", re.IGNORECASE)
_CLOSING = {"<reason>": "</reason>", "<answer>": "</answer>"}


def blocks(runs: Runs) -> str | None:
    """The response as a string of R (reason), S (span), A (answer), or None where it is not made of such blocks.

    `runs` are the stretches of text between whole spans, and SPAN for each of those; a marker that is left in the text,
    of a span that is not whole or of an end of turn, is malformed.
    """
    found = ""
    for run in runs:
        if run is SPAN:
            found += "S"
            continue
        pieces = [piece for piece in _MARKER.split(run) if piece.strip()]
        for at in range(0, len(pieces), 3):
            opening, *inside = pieces[at : at + 3]
            if len(inside) < 2 or _MARKER.fullmatch(inside[0]) or inside[1] != _CLOSING.get(opening):
                return None
            found += "R" if opening == "<reason>" else "A"
    return found


def well_formed(runs: Runs, min_spans: int) -> bool:
    """Whether a finished response, without its end of turn, follows the grammar with at least `min_spans` spans."""
    found = blocks(runs)
    return found is not None and re.fullmatch(r"(?:RS?)+A", found) is not None and found.count("S") >= min_spans
