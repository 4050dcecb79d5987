"""A policy of two parameters whose best is known: one latent drawn around m, then a word with logit w * latent.

To say the word pays 1 - (latent - 1)^2, to be silent pays 0.2.  The best policy imagines about 1 and then speaks.
What is tested is that the project's loss finds it, and that a replay with the placeholder's own embedding, the public
release's mistake, does not: the test can see the difference.
"""

import pytest
import torch
import torch.nn.functional as F

from training.rl.losses import Clip, gaussian_log_ratio, policy_loss
from training.rl.rewards import group_advantages

STD = 0.3
PLACEHOLDER = -0.5  # the embedding that stands where latents were, in the release's replay
TEXT, LATENT = Clip(0.2, 0.28, 3.0), Clip(0.1, 0.1, 3.0)


def value(m: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """The expected reward, by numerical integration over the latent."""
    noise = torch.linspace(-5, 5, 2001)
    density = (-noise.pow(2) / 2).exp()
    z = m + STD * noise
    speaks = torch.sigmoid(w * z)
    reward = speaks * (1 - (z - 1) ** 2) + (1 - speaks) * 0.2
    return (reward * density).sum() / density.sum()


def trained(replayed_latents: bool, seed: int, latent_term: bool = True) -> float:
    """The value of the policy after training from (0, 0)."""
    generator = torch.Generator().manual_seed(seed)
    m, w = torch.zeros((), requires_grad=True), torch.zeros((), requires_grad=True)
    optimiser = torch.optim.Adam([m, w], lr=0.05)
    for _ in range(150):
        with torch.no_grad():
            noise = torch.randn(256, generator=generator)
            z = m + STD * noise
            logit = w * z
            speaks = (torch.rand(256, generator=generator) < logit.sigmoid()).float()
            rewards = torch.where(speaks == 1, 1 - (z - 1) ** 2, 0.2)
            advantages = group_advantages(rewards, 256)
            old = -F.binary_cross_entropy_with_logits(logit, speaks, reduction="none")
        for half in (slice(0, 128), slice(128, 256)):
            fed = z[half] if replayed_latents else torch.full_like(z[half], PLACEHOLDER)
            text_log_ratio = -F.binary_cross_entropy_with_logits(w * fed, speaks[half], reduction="none")
            loss = policy_loss(text_log_ratio - old[half], advantages[half], TEXT).mean()
            if latent_term:
                ratio = gaussian_log_ratio(z[half, None], m.expand(128, 1), noise[half].pow(2), STD)
                loss = loss + policy_loss(ratio, advantages[half], LATENT).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return float(value(m.detach(), w.detach()))


BEST = float(value(torch.tensor(1.0), torch.tensor(50.0)))
START = float(value(torch.tensor(0.0), torch.tensor(0.0)))


def test_the_best_policy_is_the_documented_one() -> None:
    places = torch.linspace(-1, 3, 81)
    actual = max(float(value(m, w)) for m in places for w in torch.tensor([-5.0, 0.0, 1.0, 5.0, 50.0]))
    assert pytest.approx(1 - STD**2, abs=0.01) == BEST
    assert actual == pytest.approx(BEST, abs=0.01)
    assert START < 0.3


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_finds_it(seed: int) -> None:
    assert trained(replayed_latents=True, seed=seed) > BEST - 0.05


@pytest.mark.parametrize("seed", range(3))
def test_a_static_replay_does_not(seed: int) -> None:
    assert trained(replayed_latents=False, seed=seed) < BEST - 0.3


@pytest.mark.parametrize("seed", range(3))
def test_without_the_latent_term_the_imagined_stays_where_it_was(seed: int) -> None:
    assert trained(replayed_latents=True, seed=seed, latent_term=False) < BEST - 0.3
