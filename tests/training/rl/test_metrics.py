"""The figures of a rollout batch, by hand."""

import math
from typing import Any

import pytest
import torch

from tests.training.rl.made import made
from training.model.checkpoint import FutureL1
from training.rl.metrics import Stopwatch, rollout_figures
from training.rl.rollouts import Rollout

NAMES = ["accuracy", "format"]


@pytest.fixture
def rollout(base: FutureL1) -> Any:
    def make(spans: list[list[list[float]]], finished: bool = True) -> Rollout:
        t = base.tokens
        ids = [i for span in spans for i in (t.latent_start, *[t.latent] * len(span), t.latent_end)] + [10]
        latents = torch.tensor([z for span in spans for z in span]).view(-1, 2)
        return made(ids, latents, finished=finished)

    return make


def test_they_are_split_by_right_and_wrong(base: FutureL1, rollout: Any) -> None:
    east, north = [2.0, 0.0], [0.0, 1.0]
    rollouts = [rollout([[east, east]]), rollout([[east, north], [north]]), rollout([], finished=False), rollout([])]
    rewards = torch.tensor([[1.0, 1.0], [0.0, 1.0], [-1.0, 0.0], [float("nan"), 0.0]])
    told = rollout_figures(rollouts, rewards, NAMES, 2, base.tokens)
    assert told == pytest.approx(
        {
            "unjudged": 0.25, "rewards/accuracy": 0.0, "rewards/format": 0.5, "rewards/format/right": 1.0,
            "rewards/accuracy/spread": 0.5**0.5, "rewards/format/spread": 0.0,
            "rewards/format/wrong": 0.5, "completions/length": (5 + 8 + 1 + 1) / 4, "completions/finished": 0.75,
            "spans": 0.75, "spans/right": 1.0, "spans/wrong": 1.0, "latent_norm": 8 / 5, "adjacent_cosine": 0.5,
        }
    )  # fmt: skip


def test_what_there_is_nothing_of_is_no_number(base: FutureL1, rollout: Any) -> None:
    told = rollout_figures([rollout([])], torch.tensor([[1.0, 1.0]]), NAMES, 1, base.tokens)
    assert {name for name, value in told.items() if math.isnan(value)} == {
        "rewards/format/wrong", "rewards/accuracy/spread", "rewards/format/spread", "spans/wrong", "latent_norm",
        "adjacent_cosine",
    }  # fmt: skip


def test_the_parts_of_a_step_and_the_rest_are_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 4.0, 5.0, 5.5, 6.0, 8.0, 10.0, 10.0, 13.0, 13.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    stopwatch = Stopwatch(torch.device("cpu"))
    for part in ("rollout", "replay", "replay"):
        with stopwatch.part(part):
            pass
    assert stopwatch.told(2) == {
        "seconds/rollout": 1.5, "seconds/replay": 1.25, "seconds/update": 2.25, "seconds/step": 5.0,
    }  # fmt: skip
    assert stopwatch.told(1) == {"seconds/update": 3.0, "seconds/step": 3.0}, "it begins anew"
