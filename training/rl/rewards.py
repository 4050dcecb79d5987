"""Rewards as pure functions of rollouts (paper Eq. 4-7), and the advantages within their groups.

A rollout's latents are its spans: a list of tensors [K, D].  A group is the G answers to one prompt.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import torch
from torch.nn.utils.rnn import pad_sequence

from training.grading.form import well_formed
from training.model.tokens import Tokens
from training.recipes import RlRecipe
from training.rl.rollouts import Rollout

LatentSpans = Sequence[torch.Tensor]
REWARDS = ("accuracy", "format", "r_ctr", "r_div")
"""The columns of `rollout_rewards`, in the order of a recipe's reward_weights."""
MAX_ROUNDING = 1e-2
"""The share of a latent's norm below which a difference is rounding: in bf16, siblings that agree differ by less."""


def rollout_rewards(
    rollouts: Sequence[Rollout], accuracy: Sequence[float | None], recipe: RlRecipe, tokens: Tokens
) -> torch.Tensor:
    """The rewards [n, 4] of whole groups of rollouts, in the order of REWARDS; NaN for an unjudged accuracy (None)."""
    rows: list[tuple[float, float, float, float]] = []
    for begin in range(0, len(rollouts), recipe.num_generations):
        group = slice(begin, begin + recipe.num_generations)
        correct = [None if value is None else value == 1.0 for value in accuracy[group]]
        latent = latent_rewards([r.spans(tokens) for r in rollouts[group]], correct, recipe.tau_ctr, recipe.centred)
        form = [float(r.finished and well_formed(r.runs, recipe.min_spans)) for r in rollouts[group]]
        graded = [math.nan if value is None else value for value in accuracy[group]]
        rows += zip(graded, form, latent.paid_ctr, latent.paid_div, strict=True)
    return torch.tensor(rows).view(-1, len(REWARDS))


@dataclass(frozen=True)
class LatentRewards:
    """Per rollout of a group: R_ctr and R_div as the paper has them (None where undefined), and what training pays."""

    r_ctr: list[float | None]
    r_div: list[float | None]
    paid_ctr: list[float]
    paid_div: list[float]


def similarity(a: torch.Tensor, b: torch.Tensor) -> float:
    """s_ij of two latent trajectories [T, D]: mean over the common steps of (1 + cosine) / 2, in [0, 1] (Eq. 4)."""
    steps = min(len(a), len(b))
    cosine = torch.nn.functional.cosine_similarity(a[:steps].float(), b[:steps].float(), dim=-1)
    return float(((1 + cosine.clamp(-1, 1)) / 2).mean())


def contrastive(
    trajectories: Sequence[torch.Tensor | None], correct: Sequence[bool | None], tau: float
) -> tuple[list[float | None], list[float]]:
    """R_ctr of each rollout (Eq. 5), None without latents or without positives; and the reward that is paid.

    Positives and negatives are the *other* right and wrong rollouts that have latents; an unjudged one (None) is
    neither.  One bounded formula is paid in every case: e^{s+/tau} / (e^{s+/tau} + sum_neg e^{s/tau}), s+ the maximum
    over positives.  Without positives its two terms are left out; with neither positives nor negatives, or without
    latents, 0 is paid.
    """
    latent = {i: z for i, (z, _) in enumerate(zip(trajectories, correct, strict=True)) if z is not None}
    exponentials = {
        frozenset((i, j)): math.exp(similarity(latent[i], latent[j]) / tau) for i, j in combinations(latent, 2)
    }
    defined: list[float | None] = [None] * len(trajectories)
    paid = [0.0] * len(trajectories)
    for i in latent:
        weights = [(exponentials[frozenset((i, j))], correct[j]) for j in latent if j != i]
        positive = max((w for w, right in weights if right), default=0.0)
        negative = sum(w for w, right in weights if right is False)
        paid[i] = positive / (positive + negative) if positive + negative > 0 else 0.0
        defined[i] = paid[i] if positive else None
    return defined, paid


def diversity(spans: LatentSpans) -> float | None:
    """R_div of one rollout (Eq. 6): minus the mean squared cosine of adjacent span means, in [-1, 0]; None below two
    spans."""
    means = [span.float().mean(0) for span in spans if len(span)]
    if len(means) < 2:
        return None
    cosines = [torch.nn.functional.cosine_similarity(a, b, dim=0) for a, b in pairwise(means)]
    return -float(torch.stack(cosines).pow(2).mean())


def latent_rewards(
    group: Sequence[LatentSpans], correct: Sequence[bool | None], tau: float, centred: bool = False
) -> LatentRewards:
    """R_ctr and R_div of one group; `centred`: R_ctr contrasts latents minus their group's mean at each step.

    An undefined R_div is paid as the mean of the group's defined ones: no advantage over its siblings either way.
    """
    trajectories = [torch.cat(list(spans)).float() if sum(map(len, spans)) else None for spans in group]
    if centred:
        trajectories = _centred(trajectories)
    r_ctr, paid_ctr = contrastive(trajectories, correct, tau)
    r_div = [diversity(spans) for spans in group]
    defined = [value for value in r_div if value is not None]
    neutral = sum(defined) / len(defined) if defined else 0.0
    return LatentRewards(r_ctr, r_div, paid_ctr, [neutral if value is None else value for value in r_div])


def _centred(trajectories: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """Each latent minus its group's mean at the same step; zero where the difference is within rounding."""
    latents = [z for z in trajectories if z is not None]
    if not latents:
        return list(trajectories)
    means = pad_sequence(latents).sum(1) / pad_sequence([torch.ones_like(z[:, :1]) for z in latents]).sum(1)

    def deviation(z: torch.Tensor) -> torch.Tensor:
        mean = means[: len(z)]
        return (z - mean) * ((z - mean).norm(dim=-1) > MAX_ROUNDING * mean.norm(dim=-1)).unsqueeze(-1)

    return [None if z is None else deviation(z) for z in trajectories]


def group_advantages(rewards: torch.Tensor, group: int) -> torch.Tensor:
    """Group-normalised advantages [n] of rewards [n]; NaN marks unjudged ones, which get 0 and leave their group."""
    grouped = rewards.view(-1, group)
    judged = ~grouped.isnan()
    count = judged.sum(1, keepdim=True)
    mean = grouped.nansum(1, keepdim=True) / count.clamp(min=1)
    deviation = torch.where(judged, grouped - mean, 0.0)
    std = (deviation.pow(2).sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return torch.where(count >= 2, deviation / (std + 1e-4), 0.0).reshape(-1)


def mixed_groups(correct: torch.Tensor, group: int, between: tuple[float, float]) -> torch.Tensor:
    """Which groups [n / G] have a mean accuracy strictly inside `between`; correct [n] is 0 or 1, NaN for unjudged.

    A group with fewer than two judged answers is never kept.
    """
    grouped = correct.view(-1, group)
    mean = grouped.nanmean(1)
    return (mean > between[0]) & (mean < between[1]) & ((~grouped.isnan()).sum(1) >= 2)
