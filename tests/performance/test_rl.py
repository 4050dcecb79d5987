"""A step of LA-DAPO: rollouts against the naive way, where its seconds go, and memory as groups and answers grow."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from tests.biased_logits import biased_logits, spans_at
from tests.performance.conftest import Compare, Table, peak_mib
from tests.performance.subject import Subject
from tests.toy import rl_recipe
from training.grading.judge import JudgeSettings
from training.model.checkpoint import FutureL1
from training.model.completions import Decoded
from training.model.decode import decode
from training.model.rows import RowReader
from training.model.sampling import Sampling
from training.rl.__main__ import RlConfig, main
from training.rl.trainer import LatentGRPOTrainer
from training.runtime.programs import Reporter, read_metrics

PROMPTS, GROUP, NEW = 2, 8, 32
ROLLED_OUT = {"tiny": (2, 8), "mid-size": (1, 4)}  # prompts and answers of each, also decoded alone
GROWTH = [(2, 48), (8, 48), (8, 96)]  # answers of a prompt, and their tokens
PARTS = ("rollout", "rewards", "replay", "update")


@contextmanager
def two_spans(model: FutureL1, new: int) -> Iterator[None]:
    """Answers of `new` tokens each, with two full spans."""
    with biased_logits(model, spans_at(model, [new // 4, new // 2])):
        yield


def test_rollouts_in_groups_against_one_at_a_time(subject: Subject, compare: Compare, table: Table) -> None:
    """Whole rollouts, from prompts and known features to tokens: a batch of groups, one prefill for each, against a
    prefill and a decoding for every answer."""
    model, reader, (count, group) = subject.model, RowReader(subject.encoder, keep=True), ROLLED_OUT[subject.name]
    prompts = [reader.prompt(row) for row in subject.rows[:count]]
    vision, sampling = model.vision(cache_bytes=2**28), Sampling(NEW, temperature=1.0, latent_std=0.1)
    seeds = [[group * i + k for k in range(group)] for i in range(count)]

    def roll_out(prompts: list[Any], seeds: list[list[int]]) -> Decoded:
        with two_spans(model, NEW):
            return decode(model.model, vision, model.tokens, prompts, sampling, model.spans, seeds)

    def one_at_a_time() -> list[Decoded]:
        return [
            roll_out([prompt], [[seed]]) for prompt, of_prompt in zip(prompts, seeds, strict=True) for seed in of_prompt
        ]

    def in_groups() -> Decoded:
        return roll_out(prompts, seeds)

    name, answers = f"{subject.name}, rollouts one at a time against groups of {group}", count * group
    alone, together = compare(name, one_at_a_time, in_groups, answers)
    assert torch.equal(together.ids, torch.cat([decoded.ids for decoded in alone]))
    rates = [answers * NEW / sum(d.prefill_seconds + d.decode_seconds for d in way) for way in (alone, [together])]
    table(
        f"{subject.name}, rollout tokens a second", ["one at a time", "in groups"], [[f"{rate:.0f}" for rate in rates]]
    )


@pytest.fixture
def config_of(subject: Subject, tmp_path: Path) -> Callable[..., RlConfig]:
    """The RL program's config for the subject: its checkpoint, and its rows as open questions."""
    assert subject.model.latent_config is not None
    subject.model.save(tmp_path / "model", subject.latent_config)
    rows = [{**row, "question": row["question"].split("\nA.")[0]} for row in subject.rows]
    pl.DataFrame(rows).write_parquet(tmp_path / "rows.parquet")

    def make(judge: JudgeSettings | None = None, **changes: Any) -> RlConfig:
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        recipe = rl_recipe(**{"prompts_per_batch": PROMPTS, "num_generations": GROUP, "latent_anchor_coef": 1.0,
                              "latent_std": 0.1, "cache_gib": 0.5,
                              "max_new_tokens": NEW, **changes})  # fmt: skip
        return RlConfig(out=out, device="cpu", recipe=recipe, data=tmp_path / "rows.parquet", sft=tmp_path / "model",
                        judge=judge)  # fmt: skip

    return make


def test_where_a_steps_seconds_go(
    subject: Subject, config_of: Callable[..., RlConfig], judge_url: str, table: Table
) -> None:
    """The program itself, four optimiser steps on two rollout batches, a judge that takes 50 ms for a verdict asked
    at the end of each rollout.  A model without SFT gives it nothing to judge."""
    judge = JudgeSettings(base_url=judge_url, model="served", concurrency=8)
    config = config_of(judge, max_steps=4)
    main(config, Reporter(config.out))
    steps = [line for line in read_metrics(config.out) if "seconds/step" in line][2:]  # libraries were warmed up
    mean = {part: sum(line.get(f"seconds/{part}", 0.0) for line in steps) / len(steps) for part in (*PARTS, "step")}
    assert sum(mean[part] for part in PARTS) == pytest.approx(mean["step"])
    shares = [f"{mean[part] / mean['step']:.0%}" for part in PARTS]
    table(f"{subject.name}, an optimiser step of RL: {mean['step']:.2f} s", PARTS, [shares])


@pytest.mark.parametrize("subject", ["mid-size"], indirect=True)
def test_memory_as_groups_and_answers_grow(
    subject: Subject,
    config_of: Callable[..., RlConfig],
    table: Table,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of one prompt's group: the peak of its rollout, and of its replay (policy with gradients, reference without)."""
    trainers: list[LatentGRPOTrainer] = []
    monkeypatch.setattr(LatentGRPOTrainer, "train", lambda self, **_: trainers.append(self))
    lines = []
    for group, new in GROWTH:
        config = config_of(prompts_per_batch=1, num_generations=group, updates_per_batch=1, max_new_tokens=new)
        main(config, Reporter(config.out, quiet=True))
        trainer = trainers.pop()
        trainer.current_gradient_accumulation_steps = 1

        def roll_out(trainer: LatentGRPOTrainer, new: int) -> dict[str, torch.Tensor]:
            with two_spans(trainer.bundle, new):
                return trainer._generate_and_score_completions([{"row": 0}] * trainer.num_generations)

        def replay(trainer: LatentGRPOTrainer, batch: dict[str, torch.Tensor]) -> None:
            trainer._compute_loss(trainer.model, batch).backward()
            trainer.model.zero_grad(set_to_none=True)

        rollout, batch = peak_mib(partial(roll_out, trainer, new))
        assert [len(one.ids) for one in trainer._rollouts] == [new] * group
        replayed, _ = peak_mib(partial(replay, trainer, batch))
        lines.append([group, new, f"{rollout:.1f}", f"{replayed:.1f}"])
    table(f"{subject.name}, a group of RL", ["G", "answer", "rollout peak MiB", "replay peak MiB"], lines)
