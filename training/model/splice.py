"""The latent splice: vectors in place of the embeddings at latent positions, while `input_ids` stay real.

SFT, RL's replay, the anchor, inspection and the interventions all go through here.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from accelerate.utils import extract_model_from_parallel
from peft import PeftModel
from torch.utils.checkpoint import checkpoint

from training.model.vision import FrozenVision, Patches

MAX_LOGITS = 2**27
"""The most logits that exist at once where a function reduces them: half a GiB for each fp32 copy."""


class PaddedBatch(Protocol):
    """Padded rows: ids and mask [B,T], positions [3,B,T], and the observed frames of all of them."""

    @property
    def ids(self) -> torch.Tensor: ...
    @property
    def mask(self) -> torch.Tensor: ...
    @property
    def positions(self) -> torch.Tensor: ...
    @property
    def observed(self) -> list[Patches]: ...


def inputs_of(batch: PaddedBatch, vision: FrozenVision, device: torch.device) -> dict[str, Any]:
    """The inputs of the model's forward for a batch, on its device; frames as features of the frozen tower."""
    return {
        "input_ids": batch.ids.to(device),
        "attention_mask": batch.mask.to(device),
        "position_ids": batch.positions.to(device),
        "mm_encoder_outputs": vision.encoder_outputs(batch.observed),
    }


def spliced_forward(
    model: Any,
    inputs: dict[str, Any],
    latent: torch.Tensor,
    latents: torch.Tensor,
    at: torch.Tensor,
    reduce: Callable[..., torch.Tensor] | None = None,
    reduced_with: tuple[torch.Tensor, ...] = (),
) -> tuple[torch.Tensor, torch.Tensor]:
    """States [B,T,D] after the final norm, and logits [n,V] of the n positions where `at` [B,T] holds, row by row.

    `latents` [m,D] are fed at the positions `latent` [B,T].  There is one call, of `model` as it is wrapped (DDP, FSDP,
    ZeRO, PEFT), so sharded weights are whole while they are used; inside it the head gets these positions only: logits
    at every position are most of a step's memory.

    With `reduce` the second value is reduce(logits, *reduced_with) [n,...] in place of the logits: computed in chunks
    of at most MAX_LOGITS, and once more in the backward pass, where there is more than one.  Each tensor of
    `reduced_with` has n rows.
    """
    inner = unwrapped(model)
    states: list[torch.Tensor] = []
    hooks = [
        inner.model.register_forward_hook(lambda _module, _args, out: states.append(out.last_hidden_state)),
        inner.lm_head.register_forward_pre_hook(lambda _module, _args: (states[0][at],)),
    ]
    try:
        with splice_latents(inner, latent, latents), _reduced_logits(inner, reduce, reduced_with):
            logits = model(**inputs, use_cache=False, logits_to_keep=1).logits
    finally:
        for hook in hooks:
            hook.remove()
    return states[0], logits


@contextmanager
def _reduced_logits(
    model: Any, reduce: Callable[..., torch.Tensor] | None, reduced_with: tuple[torch.Tensor, ...]
) -> Iterator[None]:
    """Context in which the head's forward returns reduce(logits, *reduced_with).

    Inside the head's own forward, because there, and in its backward pass, a sharded weight is whole.
    """
    if reduce is None:
        yield
        return
    head, size = model.lm_head, max(1, MAX_LOGITS // model.config.text_config.vocab_size)
    logits_of = head.forward

    def chunk(states: torch.Tensor, *rows: torch.Tensor) -> torch.Tensor:
        return reduce(logits_of(states), *rows)

    def forward(states: torch.Tensor) -> torch.Tensor:
        if len(states) <= size:
            return chunk(states, *reduced_with)
        parts = zip(*(rows.split(size) for rows in (states, *reduced_with)), strict=True)
        return torch.cat([checkpoint(chunk, *part, use_reentrant=False) for part in parts])

    head.forward = forward
    try:
        yield
    finally:
        del head.forward  # its class has one


def unwrapped(model: Any) -> Any:
    """The Qwen3VLForConditionalGeneration inside the wrappers of accelerate and PEFT."""
    inner = extract_model_from_parallel(model)
    return inner.get_base_model() if isinstance(inner, PeftModel) else inner


@contextmanager
def splice_latents(model: Any, mask: torch.Tensor, latents: torch.Tensor) -> Iterator[None]:
    """Context in which the model's input embeddings at `mask` [B,T] are `latents` [n,D], in row-major order.

    Positions, DeepStack, attention masks, gradient checkpointing, PEFT and TRL's fused head see ordinary token ids;
    gradients reach `latents`.  Raises ValueError when the counts differ: a latent was lost.
    """
    positions = int(mask.sum())
    if positions != len(latents):
        raise ValueError(f"{len(latents)} latents for {positions} latent positions")

    def put(_module: Any, _args: Any, embeddings: torch.Tensor) -> torch.Tensor:
        return embeddings.masked_scatter(mask.unsqueeze(-1), latents.to(embeddings.dtype))

    handle = model.get_input_embeddings().register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()
