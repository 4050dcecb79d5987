"""The one rendering of a trajectory: SFT, RL, curation and evaluation all see the same text around the same frames.

User turn: the question's text pieces around its `<image>` markers, stripped, empty ones dropped, frames in their place.
Assistant turn: `<reason>` text `</reason>` newline, then the future frame as a latent span and a newline, alternating
as the annotation has them, and the answer in `<answer>` tags (reference/sft.md 2.3).

Control strings steer the model or the parsers: the tokenizer turns them into control tokens wherever they stand, and a
parser would read the tags as the model's own.  A row that carries one is rejected, by `control_in` alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

CONTROL = (
    "<|latent|>", "<|latent_start|>", "<|latent_end|>",
    "<answer>", "</answer>", "<reason>", "</reason>", "<think>", "</think>",
    "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
    "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
    "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>",
    "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
)  # fmt: skip


@dataclass(frozen=True)
class Slot:
    """The place of a frame in a dialogue: the `index`-th observed or future frame of its record."""

    kind: Literal["observed", "future"]
    index: int


Piece = str | Slot


def user_pieces(question: str, observed: int) -> list[Piece]:
    """The user turn of a question with `observed` frames.

    Raises ValueError when the markers do not match the frames, or the text carries control strings.
    """
    texts = [_plain(piece, "question").strip() for piece in question.split("<image>")]
    if len(texts) - 1 != observed:
        raise ValueError(f"the question has {len(texts) - 1} <image> markers for {observed} observed frames")
    pieces: list[Piece] = []
    for index, text in enumerate(texts):
        pieces += ([text] if text else []) + ([Slot("observed", index)] if index < observed else [])
    return pieces


def assistant_pieces(reasoning: Sequence[str], answer: str, spans: bool = True) -> list[Piece]:
    """The assistant turn; `reasoning` has one text before each future frame and one after the last ("" where none).

    An empty answer has no block of its own.  Without `spans` the frames are left out and the text stays: the text-only
    control.
    """
    pieces: list[Piece] = []
    for index, text in enumerate(reasoning):
        if thought := _plain(text, "reasoning").strip():
            pieces.append(f"<reason>{thought}</reason>\n")
        if spans and index < len(reasoning) - 1:
            pieces += [Slot("future", index), "\n"]
    if final := _plain(answer, "answer").strip():
        pieces.append(f"<answer>{final}</answer>")
    return pieces


def _plain(text: str, field: str) -> str:
    if control := control_in(text):
        raise ValueError(f"the {field} carries the control string {control}: reject the row, it cannot be rendered")
    return text


def control_in(text: str) -> str | None:
    """The first control string that `text` carries, in any letter case, or None.

    Letter case is ignored because TwiFF's answer clean-up ignores it (`reference/evaluation.md` 2.3).
    """
    folded = text.lower()
    places = [(folded.index(control), control) for control in CONTROL if control in folded]
    return min(places)[1] if places else None
