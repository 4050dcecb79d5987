"""One pass of training with latents spliced in: SFT, RL's replay, the anchor and inspection all go through here."""

from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from peft import PeftModel

from training.model.splice import splice_latents


def spliced_forward(
    model: Any, inputs: dict[str, Any], latent: torch.Tensor, latents: torch.Tensor, at: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """States [B,T,D] after the final norm, and logits [n,V] of the n positions where `at` [B,T] holds, row by row.

    `latents` [m,D] are fed at the positions `latent` [B,T].  There is one call, of `model` as it is wrapped (DDP, FSDP,
    ZeRO, PEFT), so sharded weights are whole while they are used; inside it the head is given the asked positions only:
    logits at every position are most of a step's memory.
    """
    inner = unwrapped(model)
    seen: list[torch.Tensor] = []
    hooks = [
        inner.model.register_forward_hook(lambda _module, _args, out: seen.append(out.last_hidden_state)),
        inner.lm_head.register_forward_pre_hook(lambda _module, _args: (seen[0][at],)),
    ]
    try:
        with splice_latents(inner, latent, latents):
            logits = model(**inputs, use_cache=False, logits_to_keep=1).logits
    finally:
        for hook in hooks:
            hook.remove()
    return seen[0], logits


def unwrapped(model: Any) -> Any:
    """The Qwen3VLForConditionalGeneration inside whatever accelerate and PEFT put around it."""
    inner = extract_model_from_parallel(model)
    return inner.get_base_model() if isinstance(inner, PeftModel) else inner
