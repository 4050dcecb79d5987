"""What latents say in words: the nearest token embedding, and the logit lens in every layer.

The logit lens (nostalgebraist 2020) reads a state through the final norm and the head, as if the model spoke there.
Names: n latents, D hidden size, V vocabulary, T tokens.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import normalize
from transformers import Qwen3VLForConditionalGeneration

from training.model.encoding import Encoded, collate
from training.model.sampling import banned
from training.model.splice import MAX_LOGITS, inputs_of, spliced_forward
from training.model.tokens import Tokens
from training.model.vision import FrozenVision


@torch.no_grad()
def nearest_tokens(model: Qwen3VLForConditionalGeneration, tokens: Tokens, latents: torch.Tensor) -> torch.Tensor:
    """The token [n] whose input embedding has the greatest cosine with each latent [n,D]; tokens of spans and images
    are no words."""
    directions = normalize(model.get_input_embeddings().weight, dim=-1)
    parts = [_words(normalize(part, dim=-1) @ directions.T, tokens) for part in _parts(model, latents)]
    return torch.cat(parts) if parts else latents.new_empty(0, dtype=torch.long)


@torch.no_grad()
def lens_readings(
    model: Qwen3VLForConditionalGeneration,
    vision: FrozenVision,
    tokens: Tokens,
    dialogues: Sequence[Encoded],
    latents: torch.Tensor,
) -> torch.Tensor:
    """The likeliest word [n, 1 + layers] at each latent of a batch of dialogues, which feed `latents` [n,D]: of the
    latent itself (the state that it was), then of the state in its place after each layer."""
    batch = collate(dialogues, tokens.pad)
    inputs = inputs_of(batch, vision, model.device)
    latent = inputs["input_ids"] == tokens.latent
    states = [latents]
    text = model.model.language_model
    hooks = [
        layer.register_forward_hook(lambda _module, _args, out: states.append(text.norm(out[latent])))
        for layer in text.layers
    ]
    try:
        spliced_forward(model, inputs, latent, latents, torch.zeros_like(latent))
    finally:
        for hook in hooks:
            hook.remove()
    readings = [
        torch.cat([_words(model.lm_head(part), tokens) for part in _parts(model, of_layer)]) for of_layer in states
    ]
    return torch.stack(readings, 1)


def _words(scores: torch.Tensor, tokens: Tokens) -> torch.Tensor:
    """The token [n] with the highest score [n,V] that may stand in text."""
    outside = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    return banned(scores.float(), tokens, outside, spans=False).argmax(-1)


def _parts(model: Qwen3VLForConditionalGeneration, states: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return states.split(max(1, MAX_LOGITS // model.config.text_config.vocab_size))
