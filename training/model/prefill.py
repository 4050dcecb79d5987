"""Prefill of prompts into a KV cache; a prefix that several prompts share is processed once.

The plain and the hinted prompt of a row show the same observed frames first.  Their shared prefix is prefilled once,
its cache is repeated, and each prompt continues with its own suffix.  Names: N prompts, P cache slots, D hidden size.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import Cache, Qwen3VLForConditionalGeneration

from training.model.cache import slab_cache
from training.model.encoding import Batch, Encoded, collate
from training.model.tokens import Tokens
from training.model.vision import FrozenVision

SECOND_PASS = 128  # tokens: the fixed cost of a forward pass (measured on a CPU: 50 to 80)


@dataclass
class Prefilled:
    """Rows in a cache: the last hidden state [N,D], the rope position that follows the prompt [N], and the mask of the
    first P slots [N,P], behind which none is padding; None where none is."""

    hidden: torch.Tensor
    position: torch.Tensor
    mask: torch.Tensor | None
    cache: Cache

    def select(self, index: torch.Tensor) -> None:
        """The rows with these numbers, in this order; a number may be repeated."""
        self.cache.reorder_cache(index)
        self.hidden, self.position = self.hidden[index], self.position[index]
        self.mask = self.mask[index] if self.mask is not None else None

    def drop(self, slots: int) -> None:
        """Without the first slots."""
        self.mask = self.whole_mask()[:, slots:]
        for layer in self.cache.layers:
            layer.drop(slots)

    def join(self, other: "Prefilled", index: torch.Tensor) -> None:
        """The rows of another with these numbers behind the own ones; the shorter ones are padded on the left."""
        masks = self.whole_mask(), other.whole_mask()[index]
        width = max(mask.shape[1] for mask in masks)
        self.mask = torch.cat([pad(mask, (width - mask.shape[1], 0)) for mask in masks])
        self.hidden = torch.cat([self.hidden, other.hidden[index]])
        self.position = torch.cat([self.position, other.position[index]])
        for layer, joining in zip(self.cache.layers, other.cache.layers, strict=True):
            layer.join(joining, index)

    def whole_mask(self) -> torch.Tensor:
        """The mask of all slots."""
        slots, mask = self.cache.get_seq_length(), self.mask
        if mask is None:
            mask = torch.ones(len(self.hidden), slots, dtype=torch.long, device=self.hidden.device)
        return pad(mask, (0, slots - mask.shape[1]), value=1)


@dataclass(frozen=True)
class PrefixPlan:
    """The number of the shared prefix of each prompt (`groups` [N]), and the length of each prefix."""

    groups: list[int]
    lengths: list[int]


def prefill(
    model: Qwen3VLForConditionalGeneration,
    vision: FrozenVision,
    tokens: Tokens,
    prompts: Sequence[Encoded],
    groups: Sequence[Hashable] | None = None,
) -> Prefilled:
    """All prompts, padded on the left.  `groups`: prompts of one group may share a prefix; None: none do.

    The shared prefix is determined by comparing the prompts of a group; it is processed once where that saves tokens.
    """
    pads = (tokens.image, tokens.video)
    plan = plan_prefixes(prompts, groups, pads) if groups is not None else None
    cache = slab_cache(model.config.text_config.num_hidden_layers)
    if plan is None:
        batch = collate(prompts, tokens.pad, side="left")
        mask = _padding(batch.mask, model.device)
        hidden = _forward(model, vision, batch, mask, cache)
    else:
        firsts = [prompts[plan.groups.index(group)] for group in range(len(plan.lengths))]
        cut = [_cut(prompt, length, pads) for prompt, length in zip(firsts, plan.lengths, strict=True)]
        begun = collate([beginning for beginning, _ in cut], tokens.pad, side="left")
        _forward(model, vision, begun, _padding(begun.mask, model.device), cache)
        cache.reorder_cache(torch.tensor(plan.groups, device=model.device))
        rests = [_cut(p, plan.lengths[group], pads)[1] for p, group in zip(prompts, plan.groups, strict=True)]
        batch = collate(rests, tokens.pad, side="left")
        mask = _padding(torch.cat([begun.mask[plan.groups], batch.mask], 1), model.device)
        hidden = _forward(model, vision, batch, mask, cache)
    position = batch.positions[0, :, -1].to(model.device) + 1  # a prompt's last token is text: its three axes agree
    return Prefilled(hidden, position, mask, cache)


def _padding(mask: torch.Tensor, device: torch.device) -> torch.Tensor | None:
    """The mask on the device; None where nothing is padding."""
    return None if bool(mask.all()) else mask.to(device)


def _forward(
    model: Qwen3VLForConditionalGeneration, vision: FrozenVision, batch: Batch, mask: torch.Tensor | None, cache: Any
) -> torch.Tensor:
    """The last hidden state [N,D] of a batch that continues what is in the cache."""
    return model.model(
        input_ids=batch.ids.to(model.device),
        attention_mask=mask,
        position_ids=batch.positions.to(model.device),
        mm_encoder_outputs=vision.encoder_outputs(batch.observed),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state[:, -1]


def plan_prefixes(prompts: Sequence[Encoded], groups: Sequence[Hashable], pads: tuple[int, int]) -> PrefixPlan | None:
    """The plan that processes the fewest tokens, padding counted; None where it saves less than a second pass costs.

    All prefixes are cut near one bound; every length that some group shares is tried.  A prompt without a shared prefix
    is cut there, too, so that it makes neither pass longer.
    """
    members: dict[Hashable, list[int]] = {}
    for number, group in enumerate(groups):
        members.setdefault(group, []).append(number)
    if len(members) == len(prompts):
        return None
    common = [(group, _common([prompts[i] for i in group], pads)) for group in members.values()]
    bounds = {length for group, length in common if len(group) > 1} - {0}
    plans = [_plan(prompts, common, bound, pads) for bound in bounds]
    best = min(plans, key=lambda plan: _cost(prompts, plan), default=None)
    whole = len(prompts) * max(len(p.ids) for p in prompts)
    return best if best is not None and whole - _cost(prompts, best) > SECOND_PASS else None


def _plan(
    prompts: Sequence[Encoded], common: Sequence[tuple[list[int], int]], bound: int, pads: tuple[int, int]
) -> PrefixPlan:
    """`common`: the prompts of each group and the length that they share.  A group that shares little is split."""
    groups, lengths = [0] * len(prompts), list[int]()
    for group, length in common:
        kept = len(group) == 1 or 2 * length > bound
        for part in [group] if kept else [[i] for i in group]:
            first = prompts[part[0]]
            longest = length if kept else len(first.ids) - 1
            for i in part:
                groups[i] = len(lengths)
            lengths.append(_outside(min(bound, longest), _runs(first, pads)))
    return PrefixPlan(groups, lengths)


def _cost(prompts: Sequence[Encoded], plan: PrefixPlan) -> int:
    """Tokens that both passes process."""
    rests = max(len(p.ids) - plan.lengths[group] for p, group in zip(prompts, plan.groups, strict=True))
    return len(plan.lengths) * max(plan.lengths) + len(prompts) * rests


def _common(prompts: Sequence[Encoded], pads: tuple[int, int]) -> int:
    """The length of the prefix that all of these share, images included; each prompt keeps at least its last token."""
    first = prompts[0]
    length = min(len(p.ids) for p in prompts) - 1
    for other in prompts[1:]:
        pairs = zip(first.ids[:length], other.ids[:length], strict=True)
        length = next((t for t, (a, b) in enumerate(pairs) if a != b), length)
        differs = (first.positions[:, :length] != other.positions[:, :length]).any(0).nonzero()
        length = int(differs[0]) if len(differs) else length
        for (begin, _), mine, theirs in zip(_runs(first, pads), first.observed, other.observed, strict=False):
            if mine.key != theirs.key:
                length = min(length, begin)
                break
    return _outside(length, _runs(first, pads))


def _runs(prompt: Encoded, pads: tuple[int, int]) -> list[tuple[int, int]]:
    """First and one past the last token of each image."""
    places = [t for t, token in enumerate(prompt.ids) if token in pads]
    runs, at = [], 0
    for image in prompt.observed:
        runs.append((places[at], places[at] + image.tokens))
        at += image.tokens
    return runs


def _outside(length: int, runs: Sequence[tuple[int, int]]) -> int:
    """The greatest length up to this one that cuts no image."""
    return next((begin for begin, end in runs if begin < length < end), length)


def _cut(prompt: Encoded, length: int, pads: tuple[int, int]) -> tuple[Encoded, Encoded]:
    """A prompt's prefix and its suffix."""
    images = sum(begin < length for begin, _ in _runs(prompt, pads))
    parts = (slice(None, length), slice(None, images)), (slice(length, None), slice(images, None))
    beginning, rest = (
        replace(
            prompt,
            ids=prompt.ids[tokens],
            labels=prompt.labels[tokens],
            positions=prompt.positions[:, tokens],
            observed=prompt.observed[frames],
        )
        for tokens, frames in parts
    )
    return beginning, rest
