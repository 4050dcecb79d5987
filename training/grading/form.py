"""The form of a response, which RL rewards: its grammar, (reason span?)+ answer, and how much it repeats itself.

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

_GRAMMAR_MARKER = re.compile(r"(<\|[^|<>]*\|>|</?(?:reason|answer)\b[^<>]*>)", re.IGNORECASE)
_CLOSING = {"<reason>": "</reason>", "<answer>": "</answer>"}

REPETITIVE = 0.5
"""A response that scores above is repetitive: it is paid -1, even if it is right (reference/rl.md 2.3)."""

_MARKER = re.compile(r"<\|[^|<>]*\|>|</?(?:reason|answer)>")
_GRAM = 4  # words
_BLOCKS = (50, 25)  # words of a block that may be repeated at once
_LONG = 100  # words from which on blocks are looked for
_LINE = 10  # characters above which a line counts


def blocks(runs: Runs) -> str | None:
    """The response as a string of R (reason), S (span), A (answer), or None where it is not made of such blocks.

    `runs` are the stretches of text between whole spans, and SPAN for each of those; a marker that is left in the text,
    of a span that is not whole or of an end of turn, is malformed.
    """
    form = ""
    for run in runs:
        if run is SPAN:
            form += "S"
            continue
        pieces = [piece for piece in _GRAMMAR_MARKER.split(run) if piece.strip()]
        for at in range(0, len(pieces), 3):
            opening, *inside = pieces[at : at + 3]
            if len(inside) < 2 or _GRAMMAR_MARKER.fullmatch(inside[0]) or inside[1] != _CLOSING.get(opening):
                return None
            form += "R" if opening == "<reason>" else "A"
    return form


def well_formed(runs: Runs, min_spans: int) -> bool:
    """Whether a finished response, without its end of turn, follows the grammar with at least `min_spans` spans."""
    form = blocks(runs)
    return form is not None and re.fullmatch(r"(?:RS?)+A", form) is not None and form.count("S") >= min_spans


def repetition(text: str) -> float:
    """The worst of three shares, in [0, 1], markers and latents left out: repeated word 4-grams, the longest run of one
    block of 50 or 25 words, and repeated lines of more than ten characters.  0 for fewer than five words."""
    plain = _MARKER.sub(" ", text)
    words = plain.split()
    if len(words) < 5:
        return 0.0
    lines = [line for line in map(str.strip, plain.splitlines()) if len(line) > _LINE]
    grams = [tuple(words[i : i + _GRAM]) for i in range(len(words) - _GRAM + 1)]
    blocks = max(_longest_run(words, size) for size in _BLOCKS) if len(words) >= _LONG else 0.0
    return max(_repeated(grams), blocks, _repeated(lines) if len(lines) > 2 else 0.0)


def _repeated(items: Sequence[object]) -> float:
    return 1 - len(set(items)) / len(items)


def _longest_run(words: Sequence[str], size: int) -> float:
    """The share of the text that the longest run of one block takes, from its first occurrence; 0 if none repeats."""
    longest = run = 0
    for at in range(size, len(words)):
        run = run + 1 if words[at] == words[at - size] else 0
        if run >= size:  # a whole block more; what begins another one does not count yet
            longest = max(longest, run // size * size + size)
    return longest / len(words)
