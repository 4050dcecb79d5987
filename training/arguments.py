"""The arguments of TRL's trainers, the same for SFT and RL."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from training.model.placement import is_sharded
from training.recipes import TrainingRecipe

if TYPE_CHECKING:
    from training.runtime.programs import TrainingConfig

STEPS = "steps"
"""The folder of the trainer's own checkpoints, in a program's working folder."""
MIN_REPORTS = 40
"""The least number of points of a training curve, where the run has as many steps."""


@dataclass(frozen=True)
class Preparation:
    """The facts of a training before its model is loaded.

    model: the folder of the model that it starts from.  micro_batch: rows that a device takes at once, `accumulation`
    times an optimiser step.
    """

    model: Path
    rows: list[dict[str, Any]]
    device: torch.device
    dtype: torch.dtype
    micro_batch: int
    accumulation: int
    provenance: dict[str, Any]


def trainer_arguments(
    config: "TrainingConfig", recipe: TrainingRecipe, steps: int, preparation: Preparation
) -> dict[str, Any]:
    """The TrainingArguments of both trainers for a run of so many optimiser steps."""
    cosine = recipe.lr_scheduler_type == "cosine_with_min_lr"
    same = {"learning_rate", "lr_scheduler_type", "adam_beta1", "adam_beta2", "weight_decay", "max_grad_norm"}
    return {
        **recipe.model_dump(include=same),
        "per_device_train_batch_size": preparation.micro_batch,
        "gradient_accumulation_steps": preparation.accumulation,
        "lr_scheduler_kwargs": {"min_lr_rate": recipe.min_lr_rate} if cosine else {},
        "warmup_steps": recipe.warmup_ratio,  # transformers 5: below 1 it is a ratio
        "max_steps": steps,
        "output_dir": str(config.out / STEPS),
        "logging_steps": max(1, min(10, steps // MIN_REPORTS)),
        "save_strategy": "steps",
        "save_total_limit": 2,
        "report_to": list(config.report_to),
        "project": "future-l1",
        "run_name": recipe.name,
        "seed": config.seed,
        "bf16": preparation.dtype == torch.bfloat16,
        "use_cpu": preparation.device.type != "cuda",
        "activation_checkpointing": preparation.device.type == "cuda",
        # FSDP would keep a step's gradients whole in every process, to average them once
        "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": is_sharded()}},
        "ddp_find_unused_parameters": False,  # each batch uses every weight that learns, latents or not
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
    }
