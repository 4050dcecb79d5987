"""A response as TwiFF-Bench's judge reads it: the release's clean-up, step for step (reference/evaluation.md 2.3)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_LATENT = re.compile(r"<\|latent(?:_start|_end)?\|>", re.IGNORECASE)
_CHAT = re.compile(r"<\|(?:im_start|im_end|endoftext|redacted_im_end)\|>")
_ANS = re.compile(r"<(/?)ans\s*>", re.IGNORECASE)
_REASON_TAG = re.compile(r"</?reason\s*>", re.IGNORECASE)
_IMAGE = re.compile(r"<image>\s*")


@dataclass(frozen=True)
class _Block:
    """A complete block in a text: `start` and `end` are those of its tags, `inner` is stripped."""

    start: int
    end: int
    inner: str


class _Tag:
    """Complete blocks of one tag, each from its first opening to the next closing one, in linear time."""

    def __init__(self, name: str) -> None:
        self._opening = re.compile(rf"<{name}\s*>", re.IGNORECASE)
        self._closing = re.compile(rf"</{name}\s*>", re.IGNORECASE)

    def blocks(self, text: str) -> Iterator[_Block]:
        at = 0
        while (opened := self._opening.search(text, at)) and (closed := self._closing.search(text, opened.end())):
            at = closed.end()
            yield _Block(opened.start(), at, text[opened.end() : closed.start()].strip())


_ANSWER, _REASON = _Tag("answer"), _Tag("reason")


def split_response(text: str) -> tuple[str, str]:
    """The reasoning (the blocks, then what stood outside them) and the first answer, control tokens removed; the answer
    is empty where no tag is complete."""
    plain = _ANS.sub(r"<\1answer>", _CHAT.sub("", _LATENT.sub("", text)))
    first = next(_ANSWER.blocks(plain), _Block(len(plain), len(plain), ""))
    return _tidy(merged_reasons(plain[: first.start])), _tidy(first.inner)


def merged_reasons(text: str) -> str:
    """The inner texts of all complete reason blocks, joined by blank lines, and after them what was left outside."""
    blocks = list(_REASON.blocks(text))
    starts, ends = [*(block.start for block in blocks), len(text)], [0, *(block.end for block in blocks)]
    outside = "".join(text[end:start] for end, start in zip(ends, starts, strict=True)).strip()
    return "\n\n".join(piece for piece in (*(block.inner for block in blocks), outside) if piece)


def without_image_markers(question: str) -> str:
    """The question as the release shows it: markers and the white space after them removed."""
    return _IMAGE.sub("", question).strip()


def _tidy(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", _REASON_TAG.sub("", text)).strip()
