"""How much a response repeats itself: such an answer is paid -1, even a right one (reference/rl.md 2.3).

Repetition is what a policy falls into when length or luck is rewarded; markers and latents are not looked at.
"""

import re
from collections.abc import Sequence

REPETITIVE = 0.5
"""A response that scores above is repetitive."""

_MARKER = re.compile(r"<\|[^|<>]*\|>|</?(?:reason|answer)>")
_GRAM = 4  # words
_BLOCKS = (50, 25)  # words of a block that may be repeated at once
_LONG = 100  # words from which on blocks are looked for
_LINE = 10  # characters above which a line counts


def repetition(text: str) -> float:
    """The worst of three shares, in [0, 1]: repeated word 4-grams, the longest run of one block of 50 or 25 words, and
    repeated lines of more than ten characters.  0 for fewer than five words."""
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
