"""R_ctr, R_div and the group's advantages: values worked out by hand, and what no group may break."""

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.rl.rewards import (
    contrastive,
    diversity,
    group_advantages,
    latent_rewards,
    mixed_groups,
    similarity,
)

EAST, NORTH, WEST = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([[-3.0, 0.0]])
E = math.e


def random_group(seed: int, size: int = 6) -> tuple[list[list[torch.Tensor]], list[bool | None]]:
    """Rollouts of zero to three spans of one to four latents, right, wrong or unjudged."""
    g = torch.Generator().manual_seed(seed)

    def number(below: int) -> int:
        return int(torch.randint(below, (), generator=g))

    spans = [[torch.randn(1 + number(4), 5, generator=g) for _ in range(number(4))] for _ in range(size)]
    return spans, [(True, False, None)[number(3)] for _ in range(size)]


# ---- similarity


def test_similarity_is_one_half_and_zero_for_equal_orthogonal_and_opposite_states() -> None:
    assert similarity(EAST, 5 * EAST) == pytest.approx(1.0)
    assert similarity(EAST, NORTH) == pytest.approx(0.5)
    assert similarity(EAST, WEST) == pytest.approx(0.0)


def test_similarity_compares_the_common_steps() -> None:
    assert similarity(torch.cat([EAST, NORTH, WEST]), torch.cat([EAST, WEST])) == pytest.approx((1 + 0.5) / 2)


# ---- R_ctr

MIXED = ([EAST, EAST, NORTH, WEST], [True, True, False, False])


def test_r_ctr_by_hand() -> None:
    """Exponents s / 0.5: 2 for equal, 1 for orthogonal, 0 for opposite."""
    defined, paid = contrastive(*MIXED, tau=0.5)
    right = E**2 / (E**2 + E + 1)  # one equal sibling; the wrong ones are orthogonal and opposite
    north = E / (E + E)  # both right ones orthogonal, the other wrong one too
    west = 1 / (1 + E)
    assert paid == pytest.approx([right, right, north, west])
    assert defined == pytest.approx(paid)


def test_the_most_similar_positive_counts() -> None:
    _, paid = contrastive([EAST, NORTH, EAST, WEST], [True, True, True, False], 0.5)
    assert paid[0] == pytest.approx(E**2 / (E**2 + 1))


def test_a_lone_right_answer_is_not_its_own_positive() -> None:
    defined, paid = contrastive([EAST, NORTH, WEST], [True, False, False], 0.5)
    assert (defined[0], paid[0]) == (None, 0.0)


def test_a_lone_wrong_answer_is_not_its_own_negative() -> None:
    defined, paid = contrastive([EAST, EAST, NORTH], [True, True, False], 0.5)
    assert (defined[2], paid[2]) == (1.0, 1.0)


def test_without_latents_nothing_is_defined_or_paid() -> None:
    defined, paid = contrastive([None, EAST, WEST], [True, True, False], 0.5)
    assert (defined[0], paid[0]) == (None, 0.0)
    assert contrastive([None, None], [True, False], 0.5) == ([None, None], [0.0, 0.0])


def test_an_unjudged_sibling_is_neither_positive_nor_negative() -> None:
    trajectories, correct = MIXED
    alone = contrastive(trajectories, correct, 0.5)[1]
    with_unjudged = contrastive([*trajectories, NORTH], [*correct, None], 0.5)[1]
    assert with_unjudged[:4] == pytest.approx(alone)


def test_equal_latents_give_no_signal_between_siblings_of_one_verdict() -> None:
    group = [[EAST.repeat(4, 1)] for _ in range(6)]
    rewards = latent_rewards(group, [True, True, True, False, False, False], 0.5)
    assert len({round(value, 6) for value in rewards.paid_ctr[:3]}) == 1
    assert len({round(value, 6) for value in rewards.paid_ctr[3:]}) == 1
    assert len(set(rewards.paid_div)) == 1


def test_equal_latents_in_a_group_of_one_verdict_give_no_advantage() -> None:
    group = [[EAST.repeat(4, 1)] for _ in range(6)]
    for verdict in (True, False):
        paid = torch.tensor(latent_rewards(group, [verdict] * 6, 0.5).paid_ctr)
        assert group_advantages(paid, 6).abs().max() < 1e-2


def test_centred_only_what_siblings_say_differently_is_compared() -> None:
    """What all share, however large, is taken away step by step; what is within rounding counts as nothing."""
    shared = torch.tensor([[100.0, 0.0], [0.0, 300.0]])
    east, west = shared + torch.tensor([30.0, 0.0]), shared - torch.tensor([30.0, 0.0])
    group, correct = [[east], [east], [west[:1]], []], [True, True, False, False]
    plain, centred = latent_rewards(group, correct, 0.5), latent_rewards(group, correct, 0.5, centred=True)
    # the second step belongs to the first two alone, who agree: nothing is left of it, and nothing is half alike
    right = E ** (0.75 / 0.5)
    assert centred.paid_ctr == pytest.approx([right / (right + 1), right / (right + 1), 1.0, 0.0])
    assert plain.paid_ctr[0] < 0.52 < centred.paid_ctr[0]
    same = [[shared + 1e-3 * torch.randn(2, 2, generator=torch.Generator().manual_seed(i))] for i in range(3)]
    assert latent_rewards(same, [True, True, False], 0.5, centred=True).paid_ctr == pytest.approx([0.5, 0.5, 1.0])


# ---- R_div


def test_r_div_by_hand() -> None:
    diagonal = torch.cat([EAST, torch.tensor([[0.0, 1.0]])])  # its mean is at 45 degrees to either
    assert diversity([EAST, 2 * NORTH]) == pytest.approx(0.0)
    assert diversity([EAST, WEST]) == pytest.approx(-1.0)
    assert diversity([EAST, diagonal]) == pytest.approx(-0.5)
    assert diversity([EAST, diagonal, NORTH, NORTH]) == pytest.approx(-(0.5 + 0.5 + 1) / 3)


@pytest.mark.parametrize("spans", [[], [EAST], [EAST, EAST[:0]]])
def test_fewer_than_two_spans_have_no_diversity(spans: list[torch.Tensor]) -> None:
    assert diversity(spans) is None


def test_imagining_less_neither_pays_nor_costs() -> None:
    rewards = latent_rewards([[EAST, WEST], [EAST, NORTH], [EAST], []], [True, False, True, False], 0.5)
    assert rewards.r_div == [pytest.approx(-1), pytest.approx(0), None, None]
    assert rewards.paid_div == pytest.approx([-1, 0, -0.5, -0.5])
    assert group_advantages(torch.tensor(rewards.paid_div), 4)[2:].abs().max() < 1e-6


# ---- every group


@given(st.integers(0, 10_000))
def test_rewards_are_bounded(seed: int) -> None:
    spans, correct = random_group(seed)
    rewards = latent_rewards(spans, correct, 0.5)
    assert all(0 <= value <= 1 for value in rewards.paid_ctr)
    assert all(-1 - 1e-6 <= value <= 0 for value in rewards.paid_div)
    assert all(r is None or r == paid for r, paid in zip(rewards.r_ctr, rewards.paid_ctr, strict=True))


@given(st.integers(0, 10_000))
def test_the_order_of_siblings_does_not_matter(seed: int) -> None:
    spans, correct = random_group(seed, 3)
    plain = latent_rewards(spans, correct, 0.5)
    for order in permutations(range(3)):
        moved = latent_rewards([spans[i] for i in order], [correct[i] for i in order], 0.5)
        assert moved.paid_ctr == pytest.approx([plain.paid_ctr[i] for i in order])
        assert moved.paid_div == pytest.approx([plain.paid_div[i] for i in order])


@given(st.integers(0, 10_000))
def test_a_rollouts_own_verdict_does_not_move_its_own_reward(seed: int) -> None:
    spans, correct = random_group(seed)
    flipped = [not correct[0], *correct[1:]]
    assert latent_rewards(spans, correct, 0.5).paid_ctr[0] == latent_rewards(spans, flipped, 0.5).paid_ctr[0]


# ---- advantages and groups


def test_advantages_are_normalised_within_each_group() -> None:
    advantages = group_advantages(torch.tensor([1.0, 0.0, 0.0, 1.0, 5.0, 5.0, 5.0, 5.0]), 4)
    assert advantages[:4].tolist() == pytest.approx([0.866, -0.866, -0.866, 0.866], abs=1e-3)
    assert advantages[4:].tolist() == [0, 0, 0, 0]


def test_an_unjudged_rollout_leaves_its_group() -> None:
    nan = float("nan")
    advantages = group_advantages(torch.tensor([1.0, 0.0, nan, nan, 1.0, nan, nan, nan]), 4)
    assert advantages[:2].tolist() == pytest.approx(group_advantages(torch.tensor([1.0, 0.0]), 2).tolist())
    assert advantages[2:].tolist() == [0] * 6


def test_a_group_is_mixed_strictly_between_the_bounds() -> None:
    nan = float("nan")
    correct = torch.tensor([
        1, 1, 1, 1,  0, 0, 0, 0,  1, 0, 1, 1,  1, 0, nan, nan,  1, nan, nan, nan,  nan, nan, nan, nan,
    ])  # fmt: skip
    assert mixed_groups(correct, 4, (0.0, 1.0)).tolist() == [False, False, True, True, False, False]
    assert mixed_groups(correct, 4, (0.1, 0.75)).tolist() == [False, False, False, True, False, False]
