"""The figures of a rollout batch, by hand."""

import math
from typing import Any

import pytest
import torch

from training.model.checkpoint import FutureL1
from training.rl.rollouts import Rollout
from training.rl.watch import rollout_figures

NAMES = ["accuracy", "format"]


@pytest.fixture
def rollout(base: FutureL1) -> Any:
    def make(spans: list[list[list[float]]], finished: bool = True) -> Rollout:
        t = base.tokens
        ids = [i for span in spans for i in (t.latent_start, *[t.latent] * len(span), t.latent_end)] + [10]
        latents = torch.tensor([z for span in spans for z in span]).view(-1, 2)
        nothing = torch.zeros(len(ids))
        return Rollout({}, None, 0, ids, "", [], nothing, nothing.bool(), latents, latents[:, 0], finished)  # type: ignore[arg-type]

    return make


def test_they_are_split_by_right_and_wrong(base: FutureL1, rollout: Any) -> None:
    east, north = [2.0, 0.0], [0.0, 1.0]
    rollouts = [rollout([[east, east]]), rollout([[east, north], [north]]), rollout([], finished=False), rollout([])]
    rewards = torch.tensor([[1.0, 1.0], [0.0, 1.0], [-1.0, 0.0], [float("nan"), 0.0]])
    told = rollout_figures(rollouts, rewards, NAMES, base.tokens)
    assert told == pytest.approx(
        {
            "unjudged": 0.25, "rewards/accuracy": 0.0, "rewards/format": 0.5, "rewards/format/right": 1.0,
            "rewards/format/wrong": 0.5, "completions/length": (5 + 8 + 1 + 1) / 4, "completions/finished": 0.75,
            "spans": 0.75, "spans/right": 1.0, "spans/wrong": 1.0, "latent_norm": 8 / 5, "adjacent_cosine": 0.5,
        }
    )  # fmt: skip


def test_what_there_is_nothing_of_is_no_number(base: FutureL1, rollout: Any) -> None:
    told = rollout_figures([rollout([])], torch.tensor([[1.0, 1.0]]), NAMES, base.tokens)
    assert {name for name, value in told.items() if math.isnan(value)} == {
        "rewards/format/wrong", "spans/wrong", "latent_norm", "adjacent_cosine",
    }  # fmt: skip
