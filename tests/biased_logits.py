"""A bias on a model's logits that opens spans at chosen steps: a model without SFT never imagines by itself and ends
anywhere, and what is timed needs answers of one length with spans."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from training.model.checkpoint import FutureL1


@contextmanager
def biased_logits(model: FutureL1, bias: Callable[[int], dict[int, float]]) -> Iterator[None]:
    """Within the context, `bias(step)` gives logits that are added to tokens' own at that step of one decoding."""
    step = itertools.count()

    @cache  # copied to the device once: a copy at each step would make the host wait for it
    def tensors(biases: tuple[tuple[int, float], ...], like: tuple[torch.device, torch.dtype]) -> list[torch.Tensor]:
        device, dtype = like
        ids, values = zip(*biases, strict=True)
        return [torch.tensor(ids, device=device), torch.tensor(values, device=device, dtype=dtype)]

    def add(_module: Any, _args: Any, logits: torch.Tensor) -> torch.Tensor:
        ids, values = tensors(tuple(bias(next(step)).items()), (logits.device, logits.dtype))
        return logits.index_add(-1, ids, values.expand(*logits.shape[:-1], -1))

    handle = model.model.lm_head.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def random_spans(model: FutureL1) -> Callable[[int], dict[int, float]]:
    """A span opens after about eight tokens of text, at different times in different answers; none ends early."""
    t = model.tokens
    often = torch.tensor(model.model.lm_head.out_features / 8.0).log().item()
    return lambda _step: {t.latent_start: often, t.end_of_turn: -1e4, t.pad: -1e4}


def spans_at(model: FutureL1, opening: Sequence[int]) -> Callable[[int], dict[int, float]]:
    """A span opens in every answer at each of these steps and at no other, is full, and no answer ends."""
    t = model.tokens
    return lambda step: {
        t.latent_start: 1e4 if step in opening else -1e4, t.latent_end: -1e4, t.end_of_turn: -1e4, t.pad: -1e4
    }  # fmt: skip
