"""How a question with images becomes the parts of a user turn: the one layout that SFT, curation and benchmarks share."""

from collections.abc import Sequence

from training.data.prompts import Part, text

IMAGE_MARKER = "<image>"


def interleave(question: str, images: Sequence[Part]) -> list[Part]:
    """The question's text pieces, stripped, with the images at their `<image>` markers; blank pieces are dropped.

    Surplus images follow the last marker (reference/sft.md 2.3).  Raises ValueError when the question has more markers
    than there are images, or images and no marker.
    """
    pieces = question.split(IMAGE_MARKER)
    markers = len(pieces) - 1
    if markers > len(images) or (images and not markers):
        raise ValueError(f"{markers} {IMAGE_MARKER} markers for {len(images)} images in question {question!r}")
    parts: list[Part] = []
    for i, piece in enumerate(pieces):
        if piece.strip():
            parts.append(text(piece.strip()))
        if i < markers - 1:
            parts.append(images[i])
        elif i == markers - 1:
            parts.extend(images[i:])
    return parts
