"""The policy loss: its trust region on both sides, its KL, and a latent's density ratio."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal

from training.rl.losses import Clip, gaussian_log_ratio, k3, policy_loss

CLIP = Clip(epsilon=0.2, epsilon_high=0.28, delta=3.0)


def loss(ratio: float, advantage: float) -> float:
    return float(policy_loss(torch.tensor([ratio]).log(), torch.tensor([advantage]), CLIP))


def slope(ratio: float, advantage: float) -> float:
    """d loss / d log ratio."""
    log_ratio = torch.tensor([ratio]).log().requires_grad_()
    (gradient,) = torch.autograd.grad(policy_loss(log_ratio, torch.tensor([advantage]), CLIP).sum(), log_ratio)
    return float(gradient)


@given(st.floats(-5, 5))
def test_an_unmoved_policy_has_the_plain_policy_gradient(advantage: float) -> None:
    assert loss(1.0, advantage) == pytest.approx(-advantage, abs=1e-6)
    assert slope(1.0, advantage) == pytest.approx(-advantage, abs=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "moves"),
    [
        (1.27, 2.0, -2.54, True),  # clip-higher: up to 1.28 a good answer is still pulled up
        (1.5, 2.0, -2.56, False),
        (0.5, 2.0, -1.0, True),  # a good answer that became unlikely is pulled back
        (0.9, -2.0, 1.8, True),
        (0.5, -2.0, 1.6, False),  # a bad answer is pushed down to 0.8 and no further
        (2.0, -2.0, 4.0, True),
        (5.0, -2.0, 6.0, False),  # dual clip: a bad answer that became likely is bounded at 3
    ],
)
def test_the_trust_region(ratio: float, advantage: float, expected: float, moves: bool) -> None:
    assert loss(ratio, advantage) == pytest.approx(expected, rel=1e-5)
    assert (slope(ratio, advantage) != 0) == moves


def test_a_runaway_ratio_stays_finite() -> None:
    actual = policy_loss(torch.tensor([500.0, -500.0]), torch.tensor([-1.0, 1.0]), CLIP)
    assert torch.isfinite(actual).all()


@given(st.floats(-15, 0), st.floats(-15, 0))
def test_k3_is_never_negative_and_zero_for_equal_policies(ours: float, theirs: float) -> None:
    assert float(k3(torch.tensor(ours), torch.tensor(theirs))) >= 0
    assert float(k3(torch.tensor(ours), torch.tensor(ours))) == 0


def test_k3_estimates_the_divergence_without_bias() -> None:
    policy, reference = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.3, 0.5])
    expected = (policy * (policy / reference).log()).sum()
    torch.testing.assert_close((policy * k3(policy.log(), reference.log())).sum(), expected)


STD = 0.3


@pytest.fixture
def moved() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Old means, new means and latents drawn around the old ones, [5, 16], in double precision."""
    g = torch.Generator().manual_seed(0)
    old = torch.randn(5, 16, generator=g, dtype=torch.float64)
    new = old + 0.2 * torch.randn(5, 16, generator=g, dtype=torch.float64)
    return old, new, old + STD * torch.randn(5, 16, generator=g, dtype=torch.float64)


def test_a_latents_ratio_is_that_of_the_densities(moved: tuple[torch.Tensor, ...]) -> None:
    old, new, latents = moved
    noise = ((latents - old) / STD).pow(2).mean(-1)
    new.requires_grad_()
    actual = gaussian_log_ratio(latents, new, noise, STD)
    density = Normal(new, STD).log_prob(latents) - Normal(old, STD).log_prob(latents)
    expected = density.sum(-1) / 16
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(*(torch.autograd.grad(f.sum(), new)[0] for f in (actual, expected)))


def test_its_gradient_is_that_of_finite_differences(moved: tuple[torch.Tensor, ...]) -> None:
    old, new, latents = moved
    noise = ((latents - old) / STD).pow(2).mean(-1)
    assert torch.autograd.gradcheck(
        lambda means: gaussian_log_ratio(latents, means, noise, STD), (new.clone().requires_grad_(),)
    )
    unmoved = gaussian_log_ratio(latents, old, noise, STD)
    torch.testing.assert_close(unmoved, torch.zeros_like(unmoved))
