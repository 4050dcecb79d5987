"""The four rewards of rollouts: accuracy, format, R_ctr and R_div, NaN where nobody could judge."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.toy import rl_recipe
from tests.training.rl.made import made
from training.model.checkpoint import FutureL1
from training.rl.grading import RolloutGrader
from training.rl.rewards import rollout_rewards
from training.rl.rollouts import Rollout, runs_of

MULTIPLE_CHOICE = "frame_1\n<image>\nWhich colour?\nA. red\nB. blue\nC. green\nD. pink"
OPEN = "frame_1\n<image>\nWhich colour?"
SPAN = "<|latent_start|>" + "<|latent|>" * 2 + "<|latent_end|>\n"
THOUGHT = "<reason>First it rolls on.</reason>\n"


@pytest.fixture
def rollout(base: FutureL1) -> Any:
    def make(text: str, question: str = MULTIPLE_CHOICE, latent: float = 1.0, finished: bool = True) -> Rollout:
        ids = base.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        latents = torch.full((ids.count(base.tokens.latent), 4), latent)
        latents[:, 0] = 1.0
        row = {"question": question, "answer": "red"}
        runs = runs_of(ids, base.tokens, base.processor.tokenizer)
        return made(ids, latents, row=row, text=text, runs=runs, finished=finished)

    return make


def rewards(base: FutureL1, rollouts: list[Rollout], **changes: Any) -> list[list[float]]:
    """A list for each reward, a value for each rollout, all of one group."""
    recipe = rl_recipe(num_generations=len(rollouts), **changes)
    accuracy = RolloutGrader(recipe.parser, None, print).accuracy(rollouts)
    return rollout_rewards(rollouts, accuracy, recipe, base.tokens).T.tolist()


def test_right_and_well_formed_are_paid_apart(base: FutureL1, rollout: Any) -> None:
    right, wrong = "<answer>red</answer>", "<answer>blue</answer>"
    group = [rollout(THOUGHT + SPAN + right), rollout(THOUGHT + wrong), rollout(right), rollout(THOUGHT + "red")]
    accuracy, form, _, _ = rewards(base, group)
    assert accuracy == [1.0, 0.0, 1.0, 0.0]
    assert form == [1.0, 1.0, 0.0, 0.0]


def test_the_form_may_ask_for_spans_and_for_an_end(base: FutureL1, rollout: Any) -> None:
    answer = "<answer>red</answer>"
    group = [
        rollout(THOUGHT + SPAN + answer),
        rollout(THOUGHT + answer),
        rollout(THOUGHT + SPAN + answer, finished=False),
    ]
    assert rewards(base, group, min_spans=1)[1] == [1.0, 0.0, 0.0]


def test_an_open_answer_without_a_judge_is_unjudged_and_contrasts_with_nobody(base: FutureL1, rollout: Any) -> None:
    answers = ("red", "something reddish", "")
    group = [
        rollout(f"{THOUGHT}{SPAN}<answer>{a}</answer>", OPEN, latent)
        for a, latent in zip(answers, (1, 1, -1), strict=True)
    ]
    accuracy, _, r_ctr, _ = rewards(base, group)
    assert accuracy[0] == 1.0 and math.isnan(accuracy[1]) and accuracy[2] == 0.0
    judged = [group[0], group[2]]
    assert [r_ctr[0], r_ctr[2]] == rewards(base, judged)[2]


def test_groups_do_not_see_each_other(base: FutureL1, rollout: Any) -> None:
    group = [
        rollout(f"{THOUGHT}{SPAN}<answer>{a}</answer>", latent=z) for a, z in (("red", 1), ("red", 0.5), ("blue", -1))
    ]
    other = [replace(r, latents=-r.latents) for r in group]
    recipe = rl_recipe(num_generations=3)
    accuracy = RolloutGrader(recipe.parser, None, print).accuracy(group + other)
    together = rollout_rewards(group + other, accuracy, recipe, base.tokens)
    assert together[:3].T.tolist() == rewards(base, group)
