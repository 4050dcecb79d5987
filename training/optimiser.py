"""A recipe's optimiser as transformers' arguments."""

from typing import Any

from training.recipes import Optimiser

FIGURES = 40
"""Reports that a curve wants at least, where the run has as many steps."""


def optimiser_arguments(optimiser: Optimiser, steps: int) -> dict[str, Any]:
    """TrainingArguments for AdamW, its schedule, logging and checkpoints."""
    cosine = optimiser.schedule == "cosine"
    return {
        "learning_rate": optimiser.rate,
        "adam_beta1": optimiser.betas[0],
        "adam_beta2": optimiser.betas[1],
        "weight_decay": optimiser.weight_decay,
        "max_grad_norm": optimiser.clip_norm,
        "warmup_steps": round(optimiser.warmup * steps),
        "lr_scheduler_type": "cosine_with_min_lr" if cosine else "constant_with_warmup",
        "lr_scheduler_kwargs": {"min_lr_rate": optimiser.floor} if cosine else {},
        "logging_steps": max(1, min(10, steps // FIGURES)),
        "save_strategy": "steps",
        "save_total_limit": 2,
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
    }
