"""Inspection of rewards: the parts of recorded groups' rewards, computed by the functions of training, for
debugging."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from training.recipes import RlRecipe
from training.rl.grading import REPETITION_PENALTY
from training.rl.rewards import LatentSpans, latent_rewards


def inspect_rewards(groups: Sequence[Any], recipe: RlRecipe) -> dict[str, Any]:
    """`groups`, each with its `rollouts`: accuracy as it is paid, R_ctr and R_div by the paper's formulas (None where
    undefined) and as they are paid, their total without the format term, and `flags` that say what is undefined.

    Raises ValueError naming the group and rollout whose record is wrong, and what was found.
    """
    return {"groups": [_group(group, number, recipe) for number, group in enumerate(groups)]}


def _group(group: Any, number: int, recipe: RlRecipe) -> dict[str, Any]:
    if not isinstance(group, Mapping) or not isinstance(group.get("rollouts"), list) or not group["rollouts"]:
        raise ValueError(f"group {number} has no list of rollouts")
    rollouts = [_rollout(rollout, f"group {number}, rollout {i}") for i, rollout in enumerate(group["rollouts"])]
    widths = {span.shape[1] for _, _, spans in rollouts for span in spans}
    if len(widths) > 1:
        raise ValueError(f"group {number}: latents of one model have one size; found {sorted(widths)}")
    correct = [bool(accuracy) and not repetitive for accuracy, repetitive, _ in rollouts]
    rewards = latent_rewards([spans for *_, spans in rollouts], correct, recipe.tau_ctr, recipe.centred)
    for_accuracy, _, for_ctr, for_div = recipe.reward_weights
    entries = []
    for i, (accuracy, repetitive, spans) in enumerate(rollouts):
        paid = REPETITION_PENALTY if repetitive else float(accuracy)
        ctr, div = rewards.paid_ctr[i], rewards.paid_div[i]
        others = [right for j, right in enumerate(correct) if j != i and any(len(span) for span in rollouts[j][2])]
        entries.append(
            {
                "accuracy": paid,
                "r_ctr": rewards.r_ctr[i],
                "r_div": rewards.r_div[i],
                "reward_ctr": ctr,
                "reward_div": div,
                "total": for_accuracy * paid + for_ctr * ctr + for_div * div,
                "flags": _flags(repetitive, spans, others),
            }
        )
    return {"rollouts": entries}


def _rollout(rollout: Any, where: str) -> tuple[int, bool, LatentSpans]:
    if not isinstance(rollout, Mapping) or rollout.get("accuracy") not in (0, 1):
        raise ValueError(f"{where}: accuracy is 0 or 1; found {rollout!r:.60}")
    repetitive = rollout.get("repetitive", False)
    if not isinstance(repetitive, bool):
        raise ValueError(f"{where}: repetitive is true or false; found {repetitive!r:.60}")
    spans = rollout.get("spans", [])
    try:
        read = [torch.tensor(span, dtype=torch.float32) for span in spans]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: spans is a list of spans, each a list of latent vectors: {error}") from error
    full = [span for span in read if span.numel()]
    if any(span.dim() != 2 or not span.isfinite().all() for span in full):
        raise ValueError(f"{where}: spans is a list of spans, each a list of latent vectors of finite numbers")
    return int(rollout["accuracy"]), repetitive, full


def _flags(repetitive: bool, spans: LatentSpans, others: Sequence[bool]) -> list[str]:
    """The reasons why a part of this reward differs from the paper's formula."""
    flags = {
        "repetitive": repetitive,
        "no_latents": not spans,
        "no_positives": bool(spans) and not any(others),
        "no_negatives": bool(spans) and all(others),
        "fewer_than_two_spans": len(spans) < 2,
    }
    return [name for name, holds in flags.items() if holds]
