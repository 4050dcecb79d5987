"""The attention that the tokens of an answer pay, by what the keys hold: in each layer and head group.

Answers are replayed in parallel, with an attention function of ours that is registered with transformers: it returns
what sdpa returns, and of the answers' tokens sums the attention weights by the keys' labels
(`training.model.masking.slot_labels`), a few queries at a time.  A head group is the heads that share a key-value head.
Names: B rows, T tokens, Q queries, H heads, G head groups, L labels, D hidden size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import one_hot
from transformers import AttentionInterface, AttentionMaskInterface, Qwen3VLForConditionalGeneration
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from training.model.encoding import Encoded, collate
from training.model.masking import SPAN, Masking, replay_mask, slot_labels
from training.model.splice import inputs_of, spliced_forward
from training.model.tokens import Tokens
from training.model.vision import FrozenVision

IMPLEMENTATION = "sdpa_with_mass"
MAX_WEIGHTS = 2**26
"""Attention weights that exist at once."""


class _Masses:
    """The masses [G,Q,L] of each row in each layer; answers: where each row's begins and ends; labels [B,T,L]."""

    def __init__(self, answers: Sequence[range], labels: torch.Tensor) -> None:
        self.answers, self.labels = answers, labels
        self.layers: list[list[torch.Tensor]] = []

    def add(self, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, scaling: float) -> None:
        """One layer: queries [B,H,T,d], keys [B,G,T,d], and transformers' mask [B,1,T,T] (None: causal)."""
        of_layer = []
        for row, answer in enumerate(self.answers):
            size = max(1, MAX_WEIGHTS // (query.shape[1] * key.shape[2]))
            parts = [answer[first : first + size] for first in range(0, len(answer), size)]
            masses = [self._mass(row, query, key, mask, scaling, part) for part in parts]
            of_layer.append(torch.cat(masses, 1).cpu())
        self.layers.append(of_layer)

    def _mass(
        self, row: int, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, scaling: float, at: range
    ) -> torch.Tensor:
        places = slice(at.start, at.stop)
        groups = query[row, :, places].unflatten(0, (key.shape[1], -1)).float()  # [G, H/G, Q, d]
        scores = groups @ key[row].float().transpose(-1, -2).unsqueeze(1) * scaling
        if mask is None:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(at.start + 1)
            scores = scores.masked_fill(later, -torch.inf)
        elif mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask[row, :, places], -torch.inf)
        else:
            scores = scores + mask[row, :, places]
        return (scores.softmax(-1) @ self.labels[row]).mean(1)


def _sdpa_with_mass(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attention_mask: torch.Tensor | None, *, attention_masses: _Masses, scaling: float, **options: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    attention_masses.add(query, key, attention_mask, scaling)
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)


AttentionInterface.register(IMPLEMENTATION, _sdpa_with_mass)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)


@torch.no_grad()
def attention_mass(
    model: Qwen3VLForConditionalGeneration,
    vision: FrozenVision,
    tokens: Tokens,
    dialogues: Sequence[Encoded],
    latents: Sequence[torch.Tensor],
    prompts: Sequence[int],
    masking: Masking | None = None,
) -> list[torch.Tensor]:
    """The attention [layers,G,Q,L] of each answer's tokens, when they are fed: its shares by label (see `slot_labels`).

    dialogues: prompts with their answers; latents: those [n,D] of each answer, as they are fed; prompts: the length of
    each prompt.  All are one batch.
    """
    batch = collate(dialogues, tokens.pad)
    labels = torch.zeros_like(batch.ids)
    for row, (dialogue, prompt) in enumerate(zip(dialogues, prompts, strict=True)):
        labels[row, : len(dialogue.ids)] = slot_labels(dialogue.ids, prompt, tokens)
    answers = [range(prompt, len(dialogue.ids)) for dialogue, prompt in zip(dialogues, prompts, strict=True)]
    masses = _Masses(answers, one_hot(labels, max(SPAN, int(labels.max())) + 1).float().to(model.device))
    inputs = inputs_of(batch, vision, model.device) | {"attention_masses": masses}
    if masking is not None:
        inputs["attention_mask"] = replay_mask(dialogues, prompts, tokens, masking, model.dtype).to(model.device)
    latent = inputs["input_ids"] == tokens.latent
    with _implementation(model):
        spliced_forward(model, inputs, latent, torch.cat(list(latents)), torch.zeros_like(latent))
    return [torch.stack(of_row) for of_row in zip(*masses.layers, strict=True)]


@contextmanager
def _implementation(model: Qwen3VLForConditionalGeneration) -> Iterator[None]:
    """Context in which the language model's attention is IMPLEMENTATION."""
    before = model.config.text_config._attn_implementation
    model.set_attn_implementation({"text_config": IMPLEMENTATION})
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": before})
