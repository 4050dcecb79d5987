"""The latent splice: vectors in place of the embeddings at latent positions, while `input_ids` stay real."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def splice_latents(model: Any, mask: torch.Tensor, latents: torch.Tensor) -> Iterator[None]:
    """Within the context, the model's input embeddings at `mask` [B,T] are `latents` [n,D], in row-major order.

    Positions, DeepStack, attention masks, gradient checkpointing, PEFT and TRL's fused head see ordinary token ids;
    gradients reach `latents`.  Raises ValueError when the counts differ: a lost latent must never pass.
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
