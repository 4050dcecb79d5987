"""Decoding without leaving rows: every row goes through every step, and transformers' own cache copies all its keys and
values at each of them."""

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from transformers import Cache, DynamicCache

from training.model.checkpoint import FutureL1
from training.model.completions import Decoded, Record
from training.model.encoding import Encoded
from training.model.modes import ModeMachine, Spans
from training.model.prefill import prefill
from training.model.randomness import LATENTS, normal
from training.model.sampling import Sampling, pick
from training.model.vision import FrozenVision


def transformers_cache(cache: Cache) -> DynamicCache:
    """The same keys and values in transformers' own cache."""
    copied = DynamicCache()
    for number, layer in enumerate(cache.layers):
        copied.update(layer.keys.contiguous(), layer.values.contiguous(), number)
    return copied


@torch.no_grad()
def reference_decode(
    bundle: FutureL1,
    vision: FrozenVision,
    prompts: Sequence[Encoded],
    sampling: Sampling,
    spans: Spans,
    seeds: Sequence[Sequence[int]],
    groups: Sequence[Hashable] | None = None,
    intervention: Any = None,
) -> Decoded:
    """As `training.model.decode.decode`, without scripts."""
    model, tokens = bundle.model, bundle.tokens
    batch = prefill(model, vision, tokens, prompts, groups)
    batch.select(torch.tensor([number for number, of_prompt in enumerate(seeds) for _ in of_prompt]))
    hidden, mask, cache = batch.hidden, batch.mask, transformers_cache(batch.cache)
    seed = torch.tensor([seed for of_prompt in seeds for seed in of_prompt])
    machine = ModeMachine(tokens, spans, len(hidden), model.device)
    record = Record(len(hidden), sampling.max_new_tokens, tokens, model.device)
    record.join(torch.arange(len(hidden)))
    for step in range(sampling.max_new_tokens):
        picked, log_prob = pick(machine.forbid(model.lm_head(hidden).float()), sampling, seed, step)
        ids, sampled = machine.advance(picked)
        vectors, noise = hidden, torch.zeros(len(hidden))
        if sampling.latent_std > 0:
            eps = normal(seed, LATENTS, step, hidden.shape[-1])
            vectors, noise = hidden + sampling.latent_std * eps.to(hidden.dtype), eps.pow(2).mean(-1)
        if intervention is not None:
            vectors = intervention(vectors, machine.span, machine.slot - 1, record.rows)
        record.add(ids, torch.where(sampled, log_prob, 0.0), sampled, vectors, noise)
        if step == sampling.max_new_tokens - 1 or bool(machine.done.all()):
            break
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        latent = (ids == tokens.latent).unsqueeze(-1)
        hidden = model.model.language_model(
            inputs_embeds=torch.where(latent, vectors.to(hidden.dtype), model.get_input_embeddings()(ids)).unsqueeze(1),
            attention_mask=mask,
            position_ids=(batch.position + step).expand(3, -1).unsqueeze(-1),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
    return record.decoded(range(len(hidden)), 0.0, 0.0)
