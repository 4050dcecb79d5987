"""Replacements of the latents that are about to be fed.  Names: b rows, D hidden size."""

from collections.abc import Callable, Sequence

import torch

from training.model.randomness import INTERVENTION, normal

# Replaces the vectors about to be fed: (vectors [b,D], index of the span [b], of the latent in it [b], place of the row
# in the whole batch [b]) -> [b,D], for the b rows that are left; rows in text mode have -1 for the latent, and what is
# returned for them is ignored
Intervention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def zeros() -> Intervention:
    """Every latent is the zero vector."""
    return lambda vectors, _span, _slot, _rows: torch.zeros_like(vectors)


def noise(seeds: torch.Tensor, kept: int = 0) -> Intervention:
    """Gaussian noise with the norm of the latent that it replaces, but for the first `kept` latents of each span; it
    depends on the answer's seed (`seeds` [B], on the model's device) and on the span and the place in it, whatever text
    comes before."""

    def replaced(vectors: torch.Tensor, span: torch.Tensor, slot: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        noisy = _gaussian(vectors, seeds[rows], span, slot)
        return torch.where((slot < kept).unsqueeze(-1), vectors, noisy)

    return replaced


def added_noise(seeds: torch.Tensor, norms: float) -> Intervention:
    """Every latent with Gaussian noise added, of `norms` times its norm; the noise is that of `noise`."""
    return lambda vectors, span, slot, rows: vectors + norms * _gaussian(vectors, seeds[rows], span, slot)


def _gaussian(vectors: torch.Tensor, seeds: torch.Tensor, span: torch.Tensor, slot: torch.Tensor) -> torch.Tensor:
    """Noise [b,D] with the norms of the vectors."""
    place = (span << 24) + slot  # spans are far shorter
    gaussian = normal(seeds, INTERVENTION, place, vectors.shape[-1]).to(vectors.dtype)
    return gaussian * (vectors.norm(dim=-1, keepdim=True) / gaussian.norm(dim=-1, keepdim=True))


def constant(vector: torch.Tensor) -> Intervention:
    """Every latent is this vector [D]."""
    return lambda vectors, _span, _slot, _rows: vector.to(vectors).expand_as(vectors)


def first_repeated(answers: int) -> Intervention:
    """Every latent of a span is the span's first one, which is the model's own; `answers`: rows of the whole batch."""
    kept = torch.empty(0)

    def replaced(vectors: torch.Tensor, _span: torch.Tensor, slot: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        if not len(kept):
            kept = vectors.new_zeros(answers, vectors.shape[-1])
        kept[rows] = torch.where((slot == 0).unsqueeze(-1), vectors, kept[rows])
        return kept[rows]

    return replaced


def replayed(spans: Sequence[torch.Tensor]) -> Intervention:
    """Every latent is that of these spans [n,D] at the same span and place; a further span is the last one again, a
    further latent its span's last one."""
    lengths = torch.tensor([len(span) for span in spans], device=spans[0].device)
    store, firsts = torch.cat(list(spans)), lengths.cumsum(0) - lengths

    def replaced(vectors: torch.Tensor, span: torch.Tensor, slot: torch.Tensor, _rows: torch.Tensor) -> torch.Tensor:
        which = span.clamp(0, len(spans) - 1)
        at = torch.minimum(slot, lengths[which] - 1).clamp(min=0)
        return store[firsts[which] + at].to(vectors)

    return replaced
