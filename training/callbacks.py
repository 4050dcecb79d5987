"""What both trainers share: progress and metrics, where to go on, and a recipe's optimiser in transformers' words."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME

from training.programs import Reporter
from training.recipes import Optimiser

FIGURES = 40
"""Reports that a curve wants at least, where the run has as many steps."""
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


class Reporting(TrainerCallback):
    """Forwards a trainer's steps and logged figures."""

    def __init__(self, reporter: Reporter, what: str) -> None:
        self.reporter, self.what = reporter, what

    def on_step_end(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        """Progress after each optimiser step."""
        self.reporter.progress(state.global_step, state.max_steps, self.what)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_kwargs: Any) -> None:
        """Figures whenever the trainer logs them."""
        figures = {k: float(v) for k, v in (logs or {}).items() if isinstance(v, int | float)}
        if figures:
            self.reporter.metrics(state.global_step, figures)


def last_checkpoint(folder: Path, needs: Sequence[str] = ()) -> str | None:
    """The latest whole checkpoint of a trainer, or None; one that a kill cut short lacks the state, written last.

    needs: files that our own trainer writes even later.
    """
    numbered = sorted((int(found[1]), path) for path in folder.glob("*") if (found := _CHECKPOINT.fullmatch(path.name)))
    stated = (path for _, path in reversed(numbered) if _has_state(path))
    return next((str(path) for path in stated if all((path / file).exists() for file in needs)), None)


def _has_state(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return True


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
