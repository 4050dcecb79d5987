"""The four rewards in the form TRL calls: one value per rollout, None where it cannot be judged."""

from collections.abc import Callable, Sequence
from typing import Any

from training.grading.grammar import well_formed
from training.model.tokens import Tokens
from training.recipes import RlRecipe
from training.rl.grading import RolloutGrader
from training.rl.rewards import LatentRewards, latent_rewards
from training.rl.rollouts import Rollout


def reward_functions(
    recipe: RlRecipe, tokens: Tokens, grader: RolloutGrader
) -> list[Callable[..., list[float | None]]]:
    """Accuracy, format, R_ctr and R_div, in the order of the recipe's weights.

    The latent rewards need to know which siblings are right, so both are computed where accuracy is graded, once for a
    batch, and looked up afterwards.
    """
    latent: dict[int, list[LatentRewards]] = {}  # of the batch that was graded last, by its first rollout

    def accuracy(rollout: Sequence[Rollout], **_: Any) -> list[float | None]:
        values = grader.accuracy(rollout)
        latent.clear()
        latent[id(rollout[0])] = [
            latent_rewards(
                [r.spans(tokens) for r in rollout[i : i + recipe.group]],
                [None if value is None else value == 1.0 for value in values[i : i + recipe.group]],
                recipe.temperature_ctr,
                recipe.centred,
            )
            for i in range(0, len(rollout), recipe.group)
        ]
        return values

    def format(rollout: Sequence[Rollout], **_: Any) -> list[float | None]:
        return [float(r.finished and well_formed(r.runs, recipe.min_spans)) for r in rollout]

    def r_ctr(rollout: Sequence[Rollout], **_: Any) -> list[float | None]:
        return [value for group in latent[id(rollout[0])] for value in group.paid_ctr]

    def r_div(rollout: Sequence[Rollout], **_: Any) -> list[float | None]:
        return [value for group in latent[id(rollout[0])] for value in group.paid_div]

    return [accuracy, format, r_ctr, r_div]
