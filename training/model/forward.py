"""One training pass with latents spliced in: SFT, RL's replay and the anchor all go through here."""

from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel

from training.model.splice import splice_latents


def last_hidden_state(model: Any, inputs: dict[str, Any], latent: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """States [B,T,D] after the final norm, with `latents` [n,D] fed at the positions `latent` [B,T].

    The call goes through `model` as it is wrapped (DDP, FSDP), whose own logits are kept to one position: the caller
    applies the head where it needs it.
    """
    inner = extract_model_from_parallel(model)
    seen: list[torch.Tensor] = []
    hook = inner.model.register_forward_hook(lambda _module, _args, out: seen.append(out.last_hidden_state))
    try:
        with splice_latents(inner, latent, latents):
            model(**inputs, use_cache=False, logits_to_keep=1)
    finally:
        hook.remove()
    return seen[0]
