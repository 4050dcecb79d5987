"""Callbacks of both trainers: progress and metrics, and a checkpoint on interrupt."""

import json
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME

from training.runtime.interrupts import patience
from training.runtime.programs import Reporter

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


class Reporting(TrainerCallback):
    """Forwards a trainer's steps and metrics to the reporter."""

    def __init__(self, reporter: Reporter, what: str) -> None:
        self.reporter, self.what = reporter, what

    def on_step_end(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        """Progress after each optimiser step."""
        self.reporter.progress(state.global_step, state.max_steps, self.what)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_kwargs: Any) -> None:
        """Metrics whenever the trainer logs them."""
        metrics = {k: float(v) for k, v in (logs or {}).items() if isinstance(v, int | float)}
        if metrics:
            self.reporter.metrics(state.global_step, metrics)


@contextmanager
def checkpoint_on_interrupt(trainer: Trainer, every: int = 1) -> Iterator[None]:
    """INT to any process lets all of them finish the step, save a checkpoint and stop; then raises KeyboardInterrupt.

    every: a checkpoint is saved at a multiple of so many steps.
    """
    interrupt = _Interrupt(every)
    trainer.add_callback(interrupt)
    here = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, interrupt.on_signal) if here else None
    try:
        with patience():
            yield
            if interrupt.stopped and dist.is_initialized():
                dist.barrier()  # where the first to leave fails its node, a cluster ends the others, who may still save
    finally:
        if here:
            signal.signal(signal.SIGINT, before)
    if interrupt.stopped:
        raise KeyboardInterrupt


class _Interrupt(TrainerCallback):
    """Stops a trainer at the end of a step, in all its processes at the same one."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.requested = self.stopped = False

    def on_signal(self, *_: Any) -> None:
        """Further INTs change nothing: torchrun repeats the one that it got to its processes."""
        if not self.requested:
            self.requested = True
            print("interrupted: saving a checkpoint after this step; TERM stops now", file=sys.stderr, flush=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        """All processes must agree, or one would wait for the other's next step."""
        if state.global_step % self.every:
            return
        requested = torch.tensor(int(self.requested), device=args.device)
        if dist.is_initialized():
            dist.all_reduce(requested, dist.ReduceOp.MAX)
        if requested.item():
            self.stopped = control.should_save = control.should_training_stop = True


class MaxStepsReachedError(Exception):
    """The checkpoint that training resumes from is that of the last step."""


class StopAtMaxSteps(TrainerCallback):
    """Ends a training that resumes from the checkpoint of its last step: transformers checks `max_steps` only after a
    step, so it would train one step more."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        """Raises MaxStepsReachedError; the weights are loaded and sharded by then."""
        if state.global_step >= state.max_steps:
            raise MaxStepsReachedError


def last_checkpoint(folder: Path, needs: Sequence[str] = ()) -> str | None:
    """The latest whole checkpoint of a trainer, or None; one that a kill cut short lacks the state, written last.

    needs: files that our own trainer writes even later.
    """
    numbered = sorted((int(match[1]), path) for path in folder.glob("*") if (match := _CHECKPOINT.fullmatch(path.name)))
    complete = (path for _, path in reversed(numbered) if _has_state(path))
    return next((str(path) for path in complete if all((path / file).exists() for file in needs)), None)


def _has_state(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return True
