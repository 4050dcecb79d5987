"""Dialogues to tensors: token ids, labels, latent positions, rope positions and patches.

Shapes: B rows, T tokens, D hidden size.  Labels and spans are found by the token positions of the assistant turn, never
by searching the text: the system prompt may (and the paper's does) name the latent tags.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from transformers import Qwen3VLProcessor

from training.data.dialogue import Piece, Slot
from training.model.tokens import LATENT, LATENT_END, LATENT_START, lookup
from training.model.vision import Patcher, Patches, VideoPatcher

IGNORE = -100


@dataclass(frozen=True)
class FrameLimits:
    """Merged vision tokens of an observed frame (least, most) and of a future frame (the latent budget L_max).

    resize: "exact" resizes once and never exceeds the budget; "release" counts as the public release does, for parity.
    """

    observed: tuple[int, int]
    latents: int
    resize: Literal["exact", "release"] = "exact"


@dataclass(frozen=True)
class Encoded:
    """One dialogue: ids [T], labels [T] (IGNORE where there is no loss), positions [3,T], and its frames' patches.

    unchanged: for each future frame the last observed one at the same size, the prediction that nothing changes.
    """

    ids: list[int]
    labels: list[int]
    positions: torch.Tensor
    observed: list[Patches]
    future: list[Patches] = field(default_factory=list)
    unchanged: list[Patches] = field(default_factory=list)


@dataclass(frozen=True)
class Batch:
    """Padded rows: ids, mask, labels [B,T], positions [3,B,T]; patches of all rows in order."""

    ids: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    observed: list[Patches]
    future: list[Patches]
    unchanged: list[Patches]


class Encoder:
    """Renders dialogues for one checkpoint's processor.

    `span_end` says what ends a span: "model" (the end token is learned, as in the paper) or "fixed" (always after the
    full budget, so the end token is forced and carries no label).  With `supervise_span_length` every decision inside a
    span is labelled, to continue as well as to stop; in the paper only stopping is.
    """

    def __init__(
        self,
        processor: Qwen3VLProcessor,
        limits: FrameLimits,
        system: str | None,
        span_end: Literal["model", "fixed"] = "model",
        supervise_span_length: bool = False,
    ) -> None:
        self.tokenizer, self.limits, self.system, self.span_end = processor.tokenizer, limits, system, span_end
        self.supervise_span_length = supervise_span_length
        self.tokens = lookup(self.tokenizer)
        self.patch = Patcher(processor.image_processor)
        self.patch_video = VideoPatcher(processor.video_processor)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def prompt_text(self, user: Sequence[str | Patches]) -> str:
        """The prompt up to and including `<|im_start|>` of the assistant turn."""
        turn = "".join(p if isinstance(p, str) else _placeholder(p) for p in user)
        system = f"<|im_start|>system\n{self.system}<|im_end|>\n" if self.system is not None else ""
        return f"{system}<|im_start|>user\n{turn}<|im_end|>\n<|im_start|>"

    def prompt(self, user: Sequence[str | Patches]) -> Encoded:
        """A user turn ready to be answered; its pieces are text, images and frame pairs in order."""
        observed = [p for p in user if not isinstance(p, str)]
        ids = self._ids(self.prompt_text(user) + "assistant\n")
        return Encoded(ids, [IGNORE] * len(ids), self._positions(ids, observed), observed)

    def dialogue(self, user: Sequence[Piece], assistant: Sequence[Piece], frames: dict[Slot, np.ndarray]) -> Encoded:
        """A whole dialogue with labels.  Raises ValueError when a fixed span is not full."""
        patches = {slot: self._frame(slot, frame) for slot, frame in frames.items()}
        observed = [patches[p] for p in user if isinstance(p, Slot)]
        future = [patches[p] for p in assistant if isinstance(p, Slot)]
        prompt = self._ids(self.prompt_text([patches[p] if isinstance(p, Slot) else p for p in user]))
        turn = "".join(self._span(patches[p]) if isinstance(p, Slot) else p for p in assistant)
        ids = prompt + self._ids(f"assistant\n{turn}<|im_end|>\n")
        start = len(prompt) + len(self._ids("assistant"))
        unlabelled = self._unlabelled()
        labels = [IGNORE if t < start or i in unlabelled else i for t, i in enumerate(ids)]
        last = max((s for s in frames if s.kind == "observed"), key=lambda s: s.index, default=None)
        unchanged = [self.future(frames[last])] * len(future) if last and future else []
        return Encoded(ids, labels, self._positions(ids, observed), observed, future, unchanged)

    def _unlabelled(self) -> set[int]:
        """Tokens of the assistant's turn that the model does not choose."""
        if self.span_end == "fixed":
            return {self.tokens.latent, self.tokens.latent_end}
        return set() if self.supervise_span_length else {self.tokens.latent}

    def _frame(self, slot: Slot, frame: np.ndarray) -> Patches:
        if slot.kind == "future":
            return self.future(frame)
        if self.limits.resize == "release":
            return self.patch.release(frame, *self.limits.observed, self.limits.observed)
        return self.patch(frame, *self.limits.observed)

    def future(self, frame: np.ndarray) -> Patches:
        """A future frame at latent size: never more than the budget, whatever its shape (but see FrameLimits)."""
        budget, observed = self.limits.latents, self.limits.observed
        if self.limits.resize == "release":
            return self.patch.release(frame, min(observed[0], budget), budget, observed)
        return self.patch(frame, 1, budget)

    def _span(self, patches: Patches) -> str:
        if self.span_end == "fixed" and patches.tokens != self.limits.latents:
            raise ValueError(
                f"a future frame gives {patches.tokens} latents, but spans are fixed at {self.limits.latents}: "
                'use span_end "model" for frames of this shape'
            )
        return LATENT_START + LATENT * patches.tokens + LATENT_END

    def _positions(self, ids: Sequence[int], observed: Sequence[Patches]) -> torch.Tensor:
        """Rope positions [3,T]: an image or frame pair spans its grid, everything else (latents too) one step each."""
        return rope_positions(ids, (self.tokens.image, self.tokens.video), [p.merged_grid for p in observed])


def continued(prompt: Encoded, answer: Sequence[int]) -> Encoded:
    """A prompt and the tokens of its answer as one dialogue without labels, for a replay: positions go on by one for
    every token."""
    start = int(prompt.positions[0, -1]) + 1
    positions = torch.arange(start, start + len(answer)).expand(3, -1)
    ids = [*prompt.ids, *answer]
    return Encoded(ids, [IGNORE] * len(ids), torch.cat([prompt.positions, positions], 1), prompt.observed)


def rope_positions(ids: Sequence[int], pads: tuple[int, int], grids: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Qwen3-VL's interleaved M-RoPE positions [3,T] (t, h, w) of one row.

    pads: the placeholder ids of images and of videos; grids: the merged grids of images and frame pairs, in order.  One
    that starts at p has t = p, h = p.., w = p.. and moves on by its longer side (reference/sft.md, 4.2).  Raises
    ValueError when the placeholders are not those of the grids: then a text contains one.
    """
    count, expected = sum(i in pads for i in ids), sum(rows * cols for rows, cols in grids)
    if count != expected:
        raise ValueError(f"{count} vision placeholders, but the {len(grids)} frames need {expected}")
    columns: list[np.ndarray] = []
    position, t, remaining = 0, 0, iter(grids)
    while t < len(ids):
        if ids[t] in pads:
            rows, cols = next(remaining)
            h, w = np.divmod(np.arange(rows * cols), cols)
            columns.append(np.stack([np.zeros_like(h), h, w]) + position)
            position, t = position + max(rows, cols), t + rows * cols
        else:
            columns.append(np.full((3, 1), position))
            position, t = position + 1, t + 1
    return torch.from_numpy(np.concatenate(columns, 1))


def collate(rows: Sequence[Encoded], pad: int, side: Literal["left", "right"] = "right") -> Batch:
    """Rows padded to one length on one side; padded positions are 0 and masked."""
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORE)
    positions = torch.zeros(3, len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        at = slice(0, len(row.ids)) if side == "right" else slice(width - len(row.ids), width)
        ids[i, at], mask[i, at], labels[i, at] = torch.tensor(row.ids), 1, torch.tensor(row.labels)
        positions[:, i, at] = row.positions
    return Batch(
        ids,
        mask,
        labels,
        positions,
        [p for row in rows for p in row.observed],
        [p for row in rows for p in row.future],
        [p for row in rows for p in row.unchanged],
    )


def _placeholder(patches: Patches) -> str:
    """An image's tokens; a frame pair's follow its time (reference/evaluation.md 1.4).

    Nothing stands around the video as a whole: transformers 4.57, which Qwen3-VL was released with, replaces the chat
    template's markers, while 5.23 leaves them there.
    """
    if patches.seconds is None:
        return f"<|vision_start|>{'<|image_pad|>' * patches.tokens}<|vision_end|>"
    return f"<{patches.seconds:.1f} seconds><|vision_start|>{'<|video_pad|>' * patches.tokens}<|vision_end|>"
