"""Metrics of a rollout batch: rewards, length, spans, latents; and the seconds that the parts of a step take."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from training.model.decode import now
from training.model.tokens import Tokens
from training.rl.rewards import REWARDS
from training.rl.rollouts import Rollout


def reward_metrics(rewards: torch.Tensor, weights: torch.Tensor, group: int) -> dict[str, float]:
    """Means over whole groups; NaN where there is nothing to average.  rewards [n, 4] as of rollout_rewards.

    Names are TRL's where TRL logs the same; a reward's `std` is the mean standard deviation within the groups.  An
    unjudged answer is neither correct nor incorrect.
    """
    accuracy, total = rewards[:, 0], (rewards * weights).sum(1)
    correct, incorrect = accuracy == 1, accuracy < 1
    metrics = {
        "unjudged": _mean(accuracy.isnan()),
        "reward": _mean(total),
        "frac_reward_zero_std": _mean(torch.isclose(total.view(-1, group).std(1), total.new_zeros(1))),
    }
    for name, column in zip(REWARDS, rewards.T, strict=True):
        metrics[f"rewards/{name}/mean"] = _mean(column)
        metrics[f"rewards/{name}/std"] = _mean(column.view(-1, group).std(1))
        if name != "accuracy":
            metrics[f"rewards/{name}/correct"] = _mean(column[correct])
            metrics[f"rewards/{name}/incorrect"] = _mean(column[incorrect])
    return metrics


def completion_metrics(rollouts: Sequence[Rollout], accuracy: torch.Tensor, tokens: Tokens) -> dict[str, float]:
    """Means over rollouts; NaN where there is nothing to average.  accuracy [n] as of rollout_rewards.

    `adjacent_cosine` is the cosine of each latent and the one before it in its span: 1 where a span repeats itself.
    """
    correct, incorrect = accuracy == 1, accuracy < 1
    metrics: dict[str, float] = {}
    spans = [r.spans(tokens) for r in rollouts]
    counts = torch.tensor([len(of_rollout) for of_rollout in spans])
    metrics["completions/mean_length"] = _mean(torch.tensor([len(r.ids) for r in rollouts]))
    metrics["completions/clipped_ratio"] = _mean(torch.tensor([not r.finished for r in rollouts]))
    metrics["spans"] = _mean(counts)
    metrics["spans/correct"] = _mean(counts[correct])
    metrics["spans/incorrect"] = _mean(counts[incorrect])
    latents = [span.float() for of_rollout in spans for span in of_rollout]
    nothing = torch.zeros(0)
    metrics["latent_norm"] = _mean(torch.cat(latents).norm(dim=-1) if latents else nothing)
    cosines = [F.cosine_similarity(span[:-1], span[1:], dim=-1) for span in latents]
    metrics["adjacent_cosine"] = _mean(torch.cat(cosines) if cosines else nothing)
    return metrics


class Stopwatch:
    """Seconds that the parts of a step take; the device is synchronised at both ends of a part."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._parts: defaultdict[str, float] = defaultdict(float)
        self._since = now(device)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = now(self._device)
        yield
        self._parts[name] += now(self._device) - start

    def seconds(self, steps: int) -> dict[str, float]:
        """Seconds a step of each part, of all, and of the `update`, which is the rest; begins anew."""
        total = now(self._device) - self._since
        parts = {**self._parts, "update": total - sum(self._parts.values()), "step": total}
        self._parts.clear()
        self._since = now(self._device)
        return {f"seconds/{name}": seconds / steps for name, seconds in parts.items()}


def _mean(values: torch.Tensor) -> float:
    defined = values[~values.isnan()] if values.is_floating_point() else values
    return float(defined.float().mean()) if len(defined) else math.nan
