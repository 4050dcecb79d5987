"""The four rewards in the form TRL calls: one value per rollout, None where it cannot be judged."""

from collections.abc import Callable, Sequence
from typing import Any

from training.grading.grade import Answered, grade
from training.grading.grammar import well_formed
from training.grading.judge import Judge
from training.model.tokens import Tokens
from training.recipes import RlRecipe
from training.rl.rewards import LatentRewards, latent_rewards
from training.rl.rollouts import Rollout

VALUES = {"correct": 1.0, "incorrect": 0.0, "unjudged": None}


def reward_functions(recipe: RlRecipe, tokens: Tokens, judge: Judge | None) -> list[Callable[..., list[float | None]]]:
    """Accuracy, format, R_ctr and R_div, in the order of the recipe's weights.

    Accuracy is graded once per batch and shared: the latent rewards need to know which siblings are right.
    """
    graded: dict[int, list[float | None]] = {}

    def accuracy(rollout: Sequence[Rollout], **_: Any) -> list[float | None]:
        items = [Answered(r.row["question"], r.row["answer"], r.text) for r in rollout]
        values = [VALUES[verdict.verdict] for verdict in grade(items, recipe.parser, judge)]
        graded.clear()
        graded[id(rollout[0])] = values
        return values

    def format(rollout: Sequence[Rollout], **_: Any) -> list[float | None]:
        return [float(r.finished and well_formed(r.text, recipe.min_spans)) for r in rollout]

    def latent(rollout: Sequence[Rollout]) -> list[LatentRewards]:
        values, group = graded[id(rollout[0])], recipe.group
        return [
            latent_rewards(
                [r.spans(tokens) for r in rollout[i : i + group]],
                [None if value is None else value == 1.0 for value in values[i : i + group]],
                recipe.temperature_ctr,
            )
            for i in range(0, len(rollout), group)
        ]

    def r_ctr(rollout: Sequence[Rollout], **_: Any) -> list[float | None]:
        return [value for group in latent(rollout) for value in group.paid_ctr]

    def r_div(rollout: Sequence[Rollout], **_: Any) -> list[float | None]:
        return [value for group in latent(rollout) for value in group.paid_div]

    return [accuracy, format, r_ctr, r_div]
