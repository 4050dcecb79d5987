"""Optimiser steps of SFT and RL by the real trainers, with the paper's recipes on a few rows, and their memory beside
the estimate's."""

import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, SFTConfig

from tests.biased_logits import biased_logits, spans_at
from tests.gpu.machine import GIB, Machine
from tests.gpu.results import Figure
from tests.gpu.rows import ArrayReader, random_rows
from tests.gpu.shapes import Shapes, latent_config
from tests.midsize import random_model
from training.arguments import Preparation, trainer_arguments
from training.estimate.memory import Layout, phases, total
from training.estimate.shape import BatchShape, ModelShape
from training.model.checkpoint import FutureL1
from training.model.decode import now
from training.model.encoding import IGNORE, Encoded
from training.model.placement import learn_in_fp32
from training.model.rows import SKIPPED, Rows
from training.recipes import RlRecipe, SftRecipe, micro_batches, paper_rl, paper_sft
from training.rl.grading import RolloutGrader
from training.rl.rollouts import Rollout
from training.rl.trainer import LatentGRPOTrainer
from training.sft.sampler import sample_rows
from training.sft.trainer import Collator, LatentSFTTrainer
from training.tiny import BASE

STEPS = 2
"""The second has the optimiser's state from its start, and warm kernels: it is the one that is timed."""
MOST_IMAGE_TOKENS = 16384
"""No bound on a frame: as in the paper."""


class StepTimes(TrainerCallback):
    """The clock at the end of each step."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.ends = device, list[float]()

    def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
        self.ends.append(now(self.device))

    @property
    def last(self) -> float:
        return self.ends[-1] - self.ends[-2]


class SpanTrainer(LatentGRPOTrainer):
    """Rollouts of one length with two full spans: an untrained model opens none and ends anywhere."""

    def _roll_out(self, prompts: Sequence[int], turn: int) -> list[Rollout]:
        longest = self.recipe.max_new_tokens
        with biased_logits(self.bundle, spans_at(self.bundle, [longest // 4, longest // 2])):
            return super()._roll_out(prompts, turn)


def sft_step(machine: Machine, shapes: Shapes) -> list[Figure]:
    """A step of two rows, one a micro-batch."""
    recipe = paper_sft("future_l1").model_copy(
        update={"latent_config": latent_config(MOST_IMAGE_TOKENS), "global_batch_size": 2, "max_steps": STEPS}
    )
    bundle, preparation = _prepared(machine, shapes, recipe)
    times, reader = StepTimes(machine.device), ArrayReader(bundle.encoder(recipe.latent_config), keep=True)
    with TemporaryDirectory() as folder:
        trainer = LatentSFTTrainer(
            model=bundle.model,
            args=SFTConfig(
                **_arguments(Path(folder), recipe, preparation),
                dataset_kwargs={"skip_prepare_dataset": True},
                max_length=None,
            ),
            train_dataset=Dataset.from_list([s._asdict() for s in sample_rows([2, 2], recipe, seed=0)]),
            data_collator=Collator(Rows(preparation.rows, reader, Path(folder) / SKIPPED)),
            processing_class=bundle.processor.tokenizer,
            callbacks=[times],
            bundle=bundle,
            recipe=recipe,
            vision=bundle.vision(),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    row = reader.dialogue(preparation.rows[0], spans=True)
    shape = _batch_shape(row, preparation.micro_batch, len(row.ids), sum(label != IGNORE for label in row.labels))
    losses = [float(record["loss"]) for record in trainer.state.log_history if "loss" in record]
    return _figures(machine, shapes, times, shape, None, losses)


def rl_step(machine: Machine, shapes: Shapes) -> list[Figure]:
    """A step of one prompt's eight answers, four a micro-batch."""
    recipe = paper_rl("la_dapo").model_copy(
        update={
            "prompts_per_batch": 1, "updates_per_batch": 1, "max_steps": STEPS, "max_new_tokens": shapes.answer,
            "max_resample_rounds": 1,
        }
    )  # fmt: skip
    bundle, preparation = _prepared(machine, shapes, recipe)
    reference = random_model(
        shapes.models[shapes.trained], bundle.latent_config or latent_config(MOST_IMAGE_TOKENS),
        device=machine.device, dtype=preparation.dtype,
    ).model.requires_grad_(False)  # fmt: skip
    times, reader = StepTimes(machine.device), ArrayReader(bundle.encoder(latent_config(MOST_IMAGE_TOKENS)), keep=True)
    with TemporaryDirectory() as folder:
        trainer = SpanTrainer(
            model=bundle.model,
            args=GRPOConfig(
                **_arguments(Path(folder), recipe, preparation),
                steps_per_generation=recipe.updates_per_batch * preparation.accumulation,
                num_generations=recipe.num_generations,
                beta=0.0,
                max_completion_length=recipe.max_new_tokens,
                temperature=recipe.temperature,
                top_p=recipe.top_p,
            ),
            train_dataset=Dataset.from_list(
                [{"prompt": row["question"], "row": i} for i, row in enumerate(preparation.rows)]
            ),
            processing_class=bundle.processor.tokenizer,
            callbacks=[times],
            recipe=recipe,
            bundle=bundle,
            grader=RolloutGrader(recipe.parser, judge=None, log=print),
            reference=reference,
            rows=Rows(preparation.rows, reader, Path(folder) / SKIPPED),
            vision=bundle.vision(),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    answer = trainer._rollouts[0]
    tokens, scored = len(answer.prompt.ids) + len(answer.ids), int(answer.sampled.sum())
    shape = _batch_shape(answer.prompt, preparation.micro_batch, tokens, scored)
    records = [record for record in trainer.state.log_history if "loss" in record]
    figures = _figures(machine, shapes, times, shape, recipe.num_generations, [float(r["loss"]) for r in records])
    for part in ("rollout", "replay", "update"):
        figures.append(Figure(f"of these {part}", records[-1][f"seconds/{part}"], "s"))
    return figures


def _prepared(machine: Machine, shapes: Shapes, recipe: SftRecipe | RlRecipe) -> tuple[FutureL1, Preparation]:
    """The model as the programs place it, the tower frozen, what learns in fp32; and two rows."""
    dtype = torch.bfloat16 if machine.is_cuda else torch.float32
    bundle = random_model(
        shapes.models[shapes.trained], latent_config(MOST_IMAGE_TOKENS), device=machine.device, dtype=dtype
    )
    bundle.model.model.visual.requires_grad_(False)
    learn_in_fp32(bundle.model)
    micro_batch, accumulation = micro_batches(recipe, processes=1)
    rows = random_rows(2, shapes.frame)
    return bundle, Preparation(BASE, rows, machine.device, dtype, micro_batch, accumulation, provenance={})


def _arguments(folder: Path, recipe: SftRecipe | RlRecipe, preparation: Preparation) -> dict[str, Any]:
    """The programs' own; nothing is saved."""
    config: Any = SimpleNamespace(out=folder, report_to=(), seed=0)
    changes = {"save_strategy": "no", "activation_checkpointing": True}
    return {**trainer_arguments(config, recipe, STEPS, preparation), **changes}


def _batch_shape(row: Encoded, rows: int, tokens: int, scored: int) -> BatchShape:
    return BatchShape(rows, tokens, sum(patches.tokens for patches in row.observed), scored)


def _figures(
    machine: Machine, shapes: Shapes, times: StepTimes, batch: BatchShape, group: int | None, losses: Sequence[float]
) -> list[Figure]:
    """The step's seconds, its loss, and the peak beside the largest phase of the estimate; group: answers of RL."""
    layout = Layout(devices=1, sharded=False, reference=group is not None)
    answers = None if group is None else BatchShape(group, batch.tokens, batch.vision_tokens, batch.scored)
    estimate = max(map(total, phases(ModelShape.of(shapes.models[shapes.trained]), layout, batch, answers).values()))
    finite = len(losses) == STEPS and all(map(math.isfinite, losses))
    return [
        Figure("peak memory", machine.peak_gib(), "GiB", estimate / GIB, "estimate:"),
        Figure(f"a step, micro-batches of {batch.rows} x {batch.tokens} tokens", times.last, "s"),
        Figure("loss, finite", losses[-1] if finite else None, "", ok=finite),
    ]
