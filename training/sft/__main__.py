"""`python -m training.sft --config sft.json`: a base checkpoint and curated rows to a Future-L1 checkpoint."""

from functools import partial
from pathlib import Path
from typing import Any

from training.recipes import SftRecipe
from training.runtime.imports import importing
from training.runtime.programs import Reporter, TrainingConfig, run_program

with importing():
    from datasets import Dataset
    from trl import SFTConfig as TrlConfig

    from training.adapters import add_adapters
    from training.arguments import Preparation, trainer_arguments
    from training.model.checkpoint import load
    from training.model.placement import is_sharded, learn_in_fp32
    from training.model.rows import SKIPPED, RowReader, Rows
    from training.runtime.callbacks import Reporting
    from training.sft.sampler import sample_rows
    from training.sft.trainer import Collator, LatentSFTTrainer
    from training.trainer import run_training, save_checkpoint, train


class SftConfig(TrainingConfig):
    """The config of `python -m training.sft`: a recipe, and the base model's folder."""

    recipe: SftRecipe
    base: Path


def main(config: SftConfig, reporter: Reporter) -> dict[str, Any]:
    """Trains, resuming from what `out` holds, and leaves `out/checkpoint`, verified by the first process."""
    train_model = partial(_train, config, reporter)
    return run_training(train_model, config, config.recipe, "training.sft", config.base, reporter)


def _train(config: SftConfig, reporter: Reporter, preparation: Preparation) -> dict[str, Any]:
    recipe, rows = config.recipe, preparation.rows
    bundle = load(config.base, preparation.device, preparation.dtype, config.seed)
    freeze_vision(bundle.model)
    model = add_adapters(bundle, recipe.lora, config.seed) if recipe.lora else bundle.model
    learn_in_fp32(model)
    encoder = bundle.encoder(recipe.latent_config, supervise_span_length=recipe.supervise_span_length)
    usable = Rows(rows, RowReader(encoder, keep=recipe.cache_gib > 0), config.out / SKIPPED)
    samples = sample_rows([len(row["future"]) for row in rows], recipe, config.seed)
    steps = len(samples) // recipe.global_batch_size
    trainer = LatentSFTTrainer(
        model=model,
        args=TrlConfig(
            **trainer_arguments(config, recipe, steps, preparation),
            dataloader_num_workers=recipe.dataloader_num_workers,
            save_steps=recipe.save_steps,
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
        ),
        train_dataset=Dataset.from_list([sample._asdict() for sample in samples]),
        data_collator=Collator(usable),
        processing_class=bundle.processor.tokenizer,
        callbacks=[Reporting(reporter, "SFT")],
        bundle=bundle,
        recipe=recipe,
        vision=bundle.vision(int(recipe.cache_gib * 2**30), apart=is_sharded()),
    )
    resumed_from = train(trainer)
    save_checkpoint(trainer, bundle, recipe.latent_config, config, recipe, preparation, steps)
    return {"steps": steps, "resumed_from": resumed_from}


def freeze_vision(model: Any) -> None:
    """Freezes the tower, its merger and DeepStack's mergers: latent targets are constants (paper, Table 8)."""
    model.model.visual.requires_grad_(False)


if __name__ == "__main__":
    run_program(SftConfig, main)
