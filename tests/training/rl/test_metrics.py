"""The metrics of a rollout batch, by hand."""

import math
from typing import Any

import pytest
import torch

from tests.training.rl.made import made
from training.model.checkpoint import FutureL1
from training.rl.metrics import Stopwatch, completion_metrics, reward_metrics
from training.rl.rewards import REWARDS
from training.rl.rollouts import Rollout

WEIGHTS = torch.tensor([0.9, 0.1, 0.0, 0.0])


@pytest.fixture
def rollout(base: FutureL1) -> Any:
    def make(spans: list[list[list[float]]], finished: bool = True) -> Rollout:
        t = base.tokens
        ids = [i for span in spans for i in (t.latent_start, *[t.latent] * len(span), t.latent_end)] + [10]
        latents = torch.tensor([z for span in spans for z in span]).view(-1, 2)
        return made(ids, latents, finished=finished)

    return make


def test_they_are_split_by_correct_and_incorrect(base: FutureL1, rollout: Any) -> None:
    east, north = [2.0, 0.0], [0.0, 1.0]
    rollouts = [rollout([[east, east]]), rollout([[east, north], [north]]), rollout([], finished=False), rollout([])]
    rewards = torch.tensor([[1.0, 1.0], [0.0, 1.0], [-1.0, 0.0], [float("nan"), 0.0]])
    metrics = reward_metrics(torch.cat([rewards, torch.zeros(4, 2)], 1), WEIGHTS, 2)
    metrics |= completion_metrics(rollouts, rewards[:, 0], base.tokens)
    latent = {
        f"rewards/{name}/{of}": 0.0 for name in ("r_ctr", "r_div") for of in ("mean", "std", "correct", "incorrect")
    }
    assert metrics == pytest.approx(
        latent
        | {
            "unjudged": 0.25, "reward": (1.0 + 0.1 - 0.9) / 3, "frac_reward_zero_std": 0.0,
            "rewards/accuracy/mean": 0.0, "rewards/format/mean": 0.5, "rewards/format/correct": 1.0,
            "rewards/accuracy/std": 0.5**0.5, "rewards/format/std": 0.0,
            "rewards/format/incorrect": 0.5, "completions/mean_length": (5 + 8 + 1 + 1) / 4,
            "completions/clipped_ratio": 0.25, "spans": 0.75, "spans/correct": 1.0, "spans/incorrect": 1.0,
            "latent_norm": 8 / 5, "adjacent_cosine": 0.5,
        }
    )  # fmt: skip


def test_groups_of_equal_rewards_are_counted() -> None:
    rewards = torch.tensor([[1.0, 1.0, 0.0, 0.0]] * 2 + [[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    assert reward_metrics(rewards, WEIGHTS, 2)["frac_reward_zero_std"] == 0.5


def test_a_mean_of_nothing_is_no_number(base: FutureL1, rollout: Any) -> None:
    metrics = reward_metrics(torch.tensor([[1.0, 1.0, 0.0, 0.0]]), WEIGHTS, 1)
    metrics |= completion_metrics([rollout([])], torch.ones(1), base.tokens)
    assert {name for name, value in metrics.items() if math.isnan(value)} == {
        *(f"rewards/{name}/std" for name in REWARDS), *(f"rewards/{name}/incorrect" for name in REWARDS[1:]),
        "spans/incorrect", "latent_norm", "adjacent_cosine",
    }  # fmt: skip


def test_the_parts_of_a_step_and_the_rest_are_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 4.0, 5.0, 5.5, 6.0, 8.0, 10.0, 10.0, 13.0, 13.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    stopwatch = Stopwatch(torch.device("cpu"))
    for part in ("rollout", "replay", "replay"):
        with stopwatch.part(part):
            pass
    assert stopwatch.seconds(2) == {
        "seconds/rollout": 1.5, "seconds/replay": 1.25, "seconds/update": 2.25, "seconds/step": 5.0,
    }  # fmt: skip
    assert stopwatch.seconds(1) == {"seconds/update": 3.0, "seconds/step": 3.0}, "it begins anew"
