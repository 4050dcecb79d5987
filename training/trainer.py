"""SFT and RL around TRL's trainers: preparation, training with resumption, and the saved checkpoint."""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import Trainer
from transformers.integrations import (
    INTEGRATION_TO_CALLBACK,
    TensorBoardCallback,
    get_available_reporting_integrations,
)

from training.adapters import adapter_weights, merged, shard_adapted
from training.arguments import Preparation
from training.data.training_set import read_training_set
from training.model.checkpoint import FutureL1, load
from training.model.latent_config import LatentConfig
from training.model.placement import placement, reduce_in_fp32
from training.model.rows import SKIPPED
from training.model.verify import verify
from training.recipes import RlRecipe, SftRecipe, TrainingRecipe, micro_batches
from training.runtime.callbacks import MaxStepsReachedError, StopAtMaxSteps, checkpoint_on_interrupt, last_checkpoint
from training.runtime.errors import PermanentError
from training.runtime.model_card import CARD, model_card
from training.runtime.programs import CHECKPOINT, Reporter, TrainingConfig, is_first
from training.runtime.provenance import provenance_of, write_provenance
from training.storage.files import AppendLog, atomic_replace_dir

CARD_METRICS = re.compile(r"loss|ce|latent_mse|latent_skill|mean_token_accuracy|reward|rewards/\w+/mean|spans")
"""The metrics whose last values a checkpoint keeps."""


def run_training(
    train_model: Callable[[Preparation], dict[str, Any]],
    config: TrainingConfig,
    recipe: SftRecipe | RlRecipe,
    program: str,
    model: Path,
    reporter: Reporter,
) -> dict[str, Any]:
    """Prepares a training of `model`, trains it, and verifies the checkpoint in the first process; the result.

    Raises PermanentError before anything is read if the recipe does not divide into the processes or a tracker is
    missing.
    """
    check_trackers(config.report_to)
    micro_batch, accumulation = micro_batches(recipe, int(os.environ.get("WORLD_SIZE", "1")))
    rows = _read_rows(config, reporter)
    device, dtype = placement(config.device)
    fields = recipe.model_dump(mode="json")
    provenance = provenance_of(program, config.data, config.card.data_version, len(rows), model, fields, config.seed)
    preparation = Preparation(model, rows, device, dtype, micro_batch, accumulation, provenance)
    result = {"rows": len(rows), "recipe": recipe.name, **train_model(preparation)}  # frees the trainer's model
    return result | verify(config.out, rows, device, dtype, reporter)


def _read_rows(config: TrainingConfig, reporter: Reporter) -> list[dict[str, Any]]:
    """The rows of the config's file; the first process records those that cannot be used."""
    training_set = read_training_set(config.data, config.clips)
    if is_first() and training_set.rejected:
        log = AppendLog(config.out / SKIPPED)
        for record in training_set.rejected:
            log.append(record)
        log.close()
        reporter.log(
            f"{len(training_set.rejected)} rows of {config.data} are not usable ({log.path} lists them); the first: "
            f"{training_set.rejected[0]['reason']}"
        )
    return training_set.rows


def check_trackers(names: Sequence[str]) -> None:
    """Raises PermanentError for a tracker of `report_to` that transformers does not know, or that is not installed."""
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            trackers = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise PermanentError(f"report_to names {name!r}, which is no tracker: choose from {trackers}")
        if name not in get_available_reporting_integrations():
            raise PermanentError(f"report_to names {name!r}, which is not installed: pip install it, or leave it out")


def train(trainer: Trainer, every: int = 1, needs: Sequence[str] = ()) -> str | None:
    """Trains, from the last checkpoint of an earlier start if there is one; returns that checkpoint's name.

    every, needs: as of `checkpoint_on_interrupt` and `last_checkpoint`.
    """
    steps = Path(trainer.args.output_dir)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):  # by default below `steps`, which goes in the end
            callback.logging_dir = callback.logging_dir or str(steps.parent / "runs")
    # The first process looks for all: another node may not see yet what was written last to a shared file system.
    (resume,) = broadcast_object_list([last_checkpoint(steps, needs)])
    trainer.add_callback(StopAtMaxSteps())
    reduce_in_fp32(trainer.accelerator)
    shard_adapted(trainer.model, trainer.accelerator)
    with checkpoint_on_interrupt(trainer, every), suppress(MaxStepsReachedError):
        trainer.train(resume_from_checkpoint=resume)
    return resume and Path(resume).name


def save_checkpoint(
    trainer: Trainer,
    bundle: FutureL1,
    latent_config: LatentConfig,
    config: TrainingConfig,
    recipe: TrainingRecipe,
    preparation: Preparation,
    steps: int,
) -> None:
    """Writes the model as `config.out`/checkpoint, whole or not at all, and ends the trainer; every process must call
    this.

    The first process writes, also the provenance and the card; sharded weights are gathered to its memory, and adapters
    are merged there.
    """
    accelerator, dtype = trainer.accelerator, preparation.dtype
    weights = adapter_weights(trainer.model) if recipe.lora else accelerator.get_state_dict(bundle.model)
    if accelerator.is_main_process:
        if recipe.lora:
            bundle = merged(load(preparation.model, "cpu", dtype, config.seed), recipe.lora, weights)
            weights = bundle.model.state_dict()
        tied = bundle.model.all_tied_weights_keys
        whole = {name: weight.to("cpu", dtype) for name, weight in weights.items() if name not in tied}
        with atomic_replace_dir(config.out / CHECKPOINT) as folder:
            bundle.save(folder, latent_config, whole)
            metrics = _last_metrics(trainer.state.log_history)
            facts = {"steps": steps, "dtype": str(dtype).removeprefix("torch."), "metrics": metrics}
            provenance = preparation.provenance | facts
            write_provenance(folder, provenance)
            card = model_card(provenance, latent_config.model_dump(mode="json"), config.card)
            (folder / CARD).write_text(card, encoding="utf-8")
    accelerator.free_memory()
    accelerator.end_training()


def _last_metrics(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The last losses and rewards that a trainer has logged, without what depends on the machine."""
    last = {name: value for record in history for name, value in record.items() if CARD_METRICS.fullmatch(name)}
    return {name: value for name, value in last.items() if math.isfinite(value)}
