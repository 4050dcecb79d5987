"""The grammar of a response: (reason span?)+ answer.

A reason and the answer hold plain, non-blank text and no marker; a span holds latents and nothing else; only white
space may stand between blocks.  The release checks this with regular expressions over the text and accepts two answers,
empty blocks, nested blocks and text inside a span (reference/rl.md 2.2); here each of those is malformed.
"""

import re

_MARKER = re.compile(r"(<\|[^|<>]*\|>|</?(?:reason|answer)\b[^<>]*>)", re.IGNORECASE)
_END_OF_TURN = "<|im_end|>"
_CLOSING = {"<reason>": "</reason>", "<answer>": "</answer>"}


def blocks(text: str) -> str | None:
    """The response as a string of R (reason), S (span), A (answer), or None where it is not made of such blocks."""
    pieces = [piece for piece in _MARKER.split(text.strip().removesuffix(_END_OF_TURN)) if piece.strip()]
    found = ""
    i = 0
    while i < len(pieces):
        if pieces[i] in _CLOSING:
            block = pieces[i : i + 3]
            if len(block) < 3 or _MARKER.fullmatch(block[1]) or block[2] != _CLOSING[pieces[i]]:
                return None
            found += "R" if pieces[i] == "<reason>" else "A"
            i += 3
        elif pieces[i] == "<|latent_start|>":
            end = i + 1
            while end < len(pieces) and pieces[end] == "<|latent|>":
                end += 1
            if end == i + 1 or end == len(pieces) or pieces[end] != "<|latent_end|>":
                return None
            found += "S"
            i = end + 1
        else:
            return None
    return found


def well_formed(text: str, min_spans: int) -> bool:
    """Whether a decoded response (special tokens kept) follows the grammar with at least `min_spans` latent spans."""
    found = blocks(text)
    return found is not None and re.fullmatch(r"(?:RS?)+A", found) is not None and found.count("S") >= min_spans
