"""What stands in for a model's own latents while it answers, to see whether the answer needs them."""

from typing import Literal, get_args

import torch

from training.model.decode import Decoded, Intervention
from training.model.randomness import INTERVENTION, normal

Name = Literal["none", "zeros", "noise", "other_item"]
NAMES: tuple[Name, ...] = get_args(Name)


def zeros() -> Intervention:
    """Every latent is the zero vector."""
    return lambda vectors, _span, _slot: torch.zeros_like(vectors)


def noise(seeds: torch.Tensor) -> Intervention:
    """Gaussian noise with the norm of the latent that it replaces; it depends on the answer's seed (`seeds` [B], on the
    model's device) and on the span and the place in it, whatever was said before."""

    def replace(vectors: torch.Tensor, span: torch.Tensor, slot: torch.Tensor) -> torch.Tensor:
        place = (span << 24) + slot  # spans are far shorter
        drawn = normal(seeds, INTERVENTION, place, vectors.shape[-1]).to(vectors.dtype)
        return drawn * (vectors.norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True))

    return replace


def other_item(plain: Decoded, latent_id: int, budget: int) -> Intervention:
    """The latents of the next answer of the batch (of those that have any), at the same span and place.

    So what an answer gets depends on the batch that it is decoded in.  `plain` are the same rows' answers with their
    own latents.  A donor with fewer spans lends its last one, a shorter span its last latent.
    """
    is_latent = plain.ids == latent_id
    starts = is_latent & ~is_latent.roll(1, 1)
    span_of = starts.long().cumsum(1)[is_latent] - 1  # of each latent in plain.latents
    row_of = is_latent.nonzero()[:, 0]
    counts = starts.sum(1)
    width = plain.latents.shape[-1]
    store = plain.latents.new_zeros(len(plain.ids), max(1, int(counts.max())), budget, width)
    first = is_latent.long().cumsum(1) - 1
    place = first[is_latent] - (first.masked_fill(~starts, -1).cummax(1).values)[is_latent]
    store[row_of, span_of, place] = plain.latents
    lengths = store.new_zeros(store.shape[:2], dtype=torch.long)
    lengths.index_put_((row_of, span_of), torch.ones_like(row_of), accumulate=True)
    donors = counts.nonzero()[:, 0]

    def replace(vectors: torch.Tensor, span: torch.Tensor, slot: torch.Tensor) -> torch.Tensor:
        if len(donors) < 2:
            return vectors
        rows = torch.arange(len(vectors), device=vectors.device)
        position = torch.searchsorted(donors, rows, right=True) % len(donors)  # the next row that has latents
        donor = donors[position]
        lent = torch.minimum(span.clamp(min=0), counts[donor] - 1)
        return store[donor, lent, torch.minimum(slot.clamp(min=0), lengths[donor, lent] - 1)]

    return replace
