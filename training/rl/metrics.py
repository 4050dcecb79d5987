"""What a rollout batch looked like, as figures: rewards, length, spans, latents; and where a step's seconds went."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from training.model.decode import now
from training.model.tokens import Tokens
from training.rl.rollouts import Rollout

NOTHING = float("nan")


def rollout_figures(
    rollouts: Sequence[Rollout], rewards: torch.Tensor, names: Sequence[str], group: int, tokens: Tokens
) -> dict[str, float]:
    """Means over the rollouts; NaN where there is nothing to average.  rewards [n, functions], accuracy first.

    `spread` is the mean standard deviation within the groups: times its weight, what a reward has to say in advantages.
    `adjacent_cosine` is that of each latent with the one before it in its span: 1 where spans say one thing over and
    over.  An unjudged answer is neither right nor wrong.
    """
    accuracy = rewards[:, 0]
    figures = {"unjudged": _mean(accuracy.isnan())}
    for name, column in zip(names, rewards.T, strict=True):
        figures[f"rewards/{name}"] = _mean(column)
        figures[f"rewards/{name}/spread"] = _mean(column.view(-1, group).std(1))
        if name != names[0]:
            figures[f"rewards/{name}/right"] = _mean(column[accuracy == 1])
            figures[f"rewards/{name}/wrong"] = _mean(column[accuracy < 1])
    spans = [r.spans(tokens) for r in rollouts]
    latents = [span.float() for own in spans for span in own]
    figures["completions/length"] = _mean(torch.tensor([len(r.ids) for r in rollouts]))
    figures["completions/finished"] = _mean(torch.tensor([r.finished for r in rollouts]))
    counts = torch.tensor([len(own) for own in spans])
    figures["spans"] = _mean(counts)
    figures["spans/right"] = _mean(counts[(accuracy == 1).cpu()])
    figures["spans/wrong"] = _mean(counts[(accuracy < 1).cpu()])
    if latents:
        figures["latent_norm"] = _mean(torch.cat(latents).norm(dim=-1))
        alike = [F.cosine_similarity(span[:-1], span[1:], dim=-1) for span in latents]
        figures["adjacent_cosine"] = _mean(torch.cat(alike))
    else:
        figures["latent_norm"] = figures["adjacent_cosine"] = NOTHING
    return figures


class Stopwatch:
    """Seconds that parts of a step take; what the device still has to do is waited for at both ends of a part."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._parts: defaultdict[str, float] = defaultdict(float)
        self._since = now(device)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        begun = now(self._device)
        yield
        self._parts[name] += now(self._device) - begun

    def told(self, steps: int) -> dict[str, float]:
        """Seconds a step of each part, of all, and of the `update`, which is the rest; begins anew."""
        total = now(self._device) - self._since
        parts = {**self._parts, "update": total - sum(self._parts.values()), "step": total}
        self._parts.clear()
        self._since = now(self._device)
        return {f"seconds/{name}": seconds / steps for name, seconds in parts.items()}


def _mean(values: torch.Tensor) -> float:
    known = values[~values.isnan()] if values.is_floating_point() else values
    return float(known.float().mean()) if len(known) else NOTHING
