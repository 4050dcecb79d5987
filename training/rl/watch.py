"""What a rollout batch looked like, as figures: rewards of right and of wrong answers, length, spans, latents."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from training.model.tokens import Tokens
from training.rl.rollouts import Rollout

NOTHING = float("nan")


def rollout_figures(
    rollouts: Sequence[Rollout], rewards: torch.Tensor, names: Sequence[str], tokens: Tokens
) -> dict[str, float]:
    """Means over the rollouts; NaN where there is nothing to average.  rewards [n, functions], accuracy first.

    `adjacent_cosine` is that of each latent with the one before it in its span: 1 where spans say one thing over and
    over.  An unjudged answer is neither right nor wrong.
    """
    accuracy = rewards[:, 0]
    figures = {"unjudged": _mean(accuracy.isnan())}
    for name, column in zip(names, rewards.T, strict=True):
        figures[f"rewards/{name}"] = _mean(column)
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


def _mean(values: torch.Tensor) -> float:
    known = values[~values.isnan()] if values.is_floating_point() else values
    return float(known.float().mean()) if len(known) else NOTHING
