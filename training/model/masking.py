"""Masking of what an answer may attend to: the observed frames or its spans are hidden from the tokens that follow.

The same rule serves decoding (`MaskedBatch`) and a parallel replay (`replay_mask`).  Names: B rows, T tokens, Q
queries, K keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.functional import pad

from training.model.completions import Record
from training.model.encoding import Encoded
from training.model.modes import ModeMachine
from training.model.prefill import Prefilled
from training.model.running_batch import RunningBatch
from training.model.tokens import Tokens

PADDING, TEXT, FRAME, SPAN = range(4)
"""Labels of what a slot holds; a latent of span k has SPAN + k."""


@dataclass(frozen=True)
class Masking:
    """Once `after` spans have closed, later tokens attend to none of the observed frames, or of the spans that have
    closed.

    The first such token is the `<|latent_end|>` itself.  The prompt's text stays: it has attended to the frames, and
    what it carries of them is not masked.
    """

    kind: Literal["frames", "spans"]
    after: int = 1

    def hidden(self, labels: torch.Tensor, closed: torch.Tensor) -> torch.Tensor:
        """Whether a query does not attend to a key [B,Q,K]: the keys' labels [B,K], the spans that have closed [B,Q]
        when the query is fed, itself included."""
        labels, closed = labels.unsqueeze(1), closed.unsqueeze(2)
        of_kind = labels == FRAME if self.kind == "frames" else (labels >= SPAN) & (labels < SPAN + closed)
        return of_kind & (closed >= self.after)


def slot_labels(ids: Sequence[int], prompt: int, tokens: Tokens) -> torch.Tensor:
    """The labels [T] of a dialogue: `prompt` tokens of the prompt, then the answer's."""
    labels, span = [], -1
    for place, token in enumerate(ids):
        if place < prompt:
            labels.append(FRAME if token in (tokens.image, tokens.video) else TEXT)
        else:
            span += token == tokens.latent_start
            labels.append(SPAN + span if token == tokens.latent else TEXT)
    return torch.tensor(labels)


def replay_mask(
    dialogues: Sequence[Encoded], prompts: Sequence[int], tokens: Tokens, masking: Masking, dtype: torch.dtype
) -> torch.Tensor:
    """The additive attention mask [B,1,T,T] of dialogues, right-padded, that are replayed under a masking.

    `prompts`: the length of each one's prompt.  transformers takes it as `attention_mask`, as it is.
    """
    width = max(len(dialogue.ids) for dialogue in dialogues)
    rows = [(dialogue.ids, prompt) for dialogue, prompt in zip(dialogues, prompts, strict=True)]
    labels = torch.stack([_padded(slot_labels(ids, prompt, tokens), width) for ids, prompt in rows])
    closed = torch.stack([_padded(closed_spans(ids, prompt, tokens), width) for ids, prompt in rows])
    later = torch.ones(width, width, dtype=torch.bool).triu(1)
    hidden = masking.hidden(labels, closed) | (labels == PADDING).unsqueeze(1) | later
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, -torch.inf).unsqueeze(1)


def _padded(values: torch.Tensor, width: int) -> torch.Tensor:
    return pad(values, (0, width - len(values)))


def closed_spans(ids: Sequence[int], prompt: int, tokens: Tokens) -> torch.Tensor:
    """The spans [T] that have closed at each token of an answer, itself included; -1 in the prompt, which no masking is
    for."""
    answer = ids[prompt:]
    closing = [
        inside and token == tokens.latent_end for token, inside in zip(answer, tokens.inside_span(answer), strict=True)
    ]
    return torch.cat([torch.full((prompt,), -1), torch.tensor(closing).long().cumsum(0)])


class MaskedBatch(RunningBatch):
    """Rows that are decoded under a masking; prompts: all that may join."""

    def __init__(
        self, machine: ModeMachine, record: Record, max_new_tokens: int, masking: Masking, prompts: Sequence[Encoded]
    ) -> None:
        super().__init__(machine, record, max_new_tokens)
        self._masking, self._prompts = masking, prompts
        self._labels = torch.zeros(0, 0, dtype=torch.long, device=record.rows.device)  # [B, filled slots]

    def join(self, prompts: Sequence[int], prefilled: Prefilled, answers: Sequence[range]) -> None:
        tokens, labels = self.machine.tokens, prefilled.whole_mask().clone()
        of_prompts = [slot_labels(ids, len(ids), tokens) for ids in (self._prompts[number].ids for number in prompts)]
        labels[labels != 0] = torch.cat(of_prompts).to(labels.device)  # slots that are no padding are in their order
        joining = torch.repeat_interleave(labels, torch.tensor([len(answers[n]) for n in prompts]).to(labels.device), 0)
        super().join(prompts, prefilled, answers)
        parts = [pad(part, (self.slots - part.shape[1], 0)) for part in (self._labels, joining)]
        self._labels = torch.cat(parts)

    def select(self, left: Sequence[int]) -> torch.Tensor:
        index = super().select(left)
        self._labels = self._labels[index]
        return index

    def trim(self) -> None:
        before = self.slots
        super().trim()
        self._labels = self._labels[:, before - self.slots :]

    def attention_mask(self, ids: torch.Tensor) -> torch.Tensor:
        machine = self.machine
        fed = torch.where(ids == machine.tokens.latent, SPAN + machine.span, TEXT)
        self._labels = torch.cat([self._labels, fed.unsqueeze(1)], 1)
        closed = machine.span + (~machine.open).long()
        hidden = self._masking.hidden(self._labels, closed.unsqueeze(1)) | (self._labels == PADDING).unsqueeze(1)
        bias = torch.zeros(hidden.shape, dtype=self.prefilled.hidden.dtype, device=hidden.device)
        return bias.masked_fill(hidden, -torch.inf).unsqueeze(1)
