"""The policy loss as pure functions (DAPO with dual clip; paper Table 9)."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Clip:
    """The trust region 1 - epsilon .. 1 + epsilon_high, and delta, which bounds the loss of bad answers (dual clip)."""

    epsilon: float
    epsilon_high: float
    delta: float


def policy_loss(log_ratio: torch.Tensor, advantages: torch.Tensor, clip: Clip) -> torch.Tensor:
    """Per-action loss, same shape as log_ratio; `advantages` broadcasts to it."""
    ratio = log_ratio.clamp(-20, 20).exp()
    clipped = ratio.clamp(1 - clip.epsilon, 1 + clip.epsilon_high)
    loss = -torch.minimum(ratio * advantages, clipped * advantages)
    return torch.where(advantages < 0, torch.minimum(loss, -advantages * clip.delta), loss)


def k3(log_probs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The low-variance estimate of KL(policy || reference) per token: e^d - d - 1 with d = reference - policy."""
    difference = (reference - log_probs).clamp(-20, 20)
    return difference.expm1() - difference


def gaussian_log_ratio(latents: torch.Tensor, means: torch.Tensor, old_noise: torch.Tensor, std: float) -> torch.Tensor:
    """log N(z; mu, sigma) - log N(z; mu_old, sigma), divided by the hidden size; latents, means [n,D] -> [n].

    `old_noise` [n] is the mean square of (z - mu_old) / sigma that the decoder recorded.  Dividing by the size is a
    choice: it keeps the ratio of thousands of dimensions inside a clip meant for one action.
    """
    return 0.5 * old_noise - 0.5 * ((latents - means) / std).pow(2).mean(-1)
