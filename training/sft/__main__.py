"""`python -m training.sft --config sft.json`: a base checkpoint and curated rows to a Future-L1 checkpoint."""

import os
from pathlib import Path
from typing import Any

import polars as pl
import torch
from datasets import Dataset
from trl import SFTConfig as TrlConfig

from training.callbacks import Reporting, last_checkpoint, optimiser_arguments
from training.model.checkpoint import load
from training.model.rows import RowReader
from training.programs import ProgramConfig, Reporter, run_program
from training.recipes import SftRecipe
from training.sft.draws import draw_rows
from training.sft.trainer import Collator, LatentSFTTrainer


class SftConfig(ProgramConfig):
    """What to train on what.  data: parquet with TrajectoryTable's columns, path, frame_count and reader."""

    recipe: SftRecipe
    data: Path
    base: Path
    seed: int = 0


def main(config: SftConfig, reporter: Reporter) -> dict[str, Any]:
    """Trains, resuming from what `out` holds, and leaves `out/checkpoint`."""
    recipe = config.recipe
    rows = pl.read_parquet(config.data).to_dicts()
    if not rows:
        raise ValueError(f"{config.data} holds no rows: curate first")
    cuda = config.device != "cpu" and torch.cuda.is_available()
    bundle = load(config.base, "cuda" if cuda else "cpu", torch.bfloat16 if cuda else torch.float32, config.seed)
    freeze_vision(bundle.model)
    reader = RowReader(bundle.encoder(recipe.teaching), keep=recipe.cache_gib > 0)
    devices = int(os.environ.get("WORLD_SIZE", "1"))
    per_step = recipe.batch * recipe.accumulation
    steps = recipe.steps or -(-len(rows) * recipe.epochs // (per_step * devices))
    depths = [len(row["future"]) for row in rows]
    draws = draw_rows(depths, steps * per_step * devices, recipe.batch, recipe.span_share, recipe.bucket, config.seed)
    trainer = LatentSFTTrainer(
        model=bundle.model,
        args=TrlConfig(
            output_dir=str(config.out / "steps"),
            max_steps=steps,
            per_device_train_batch_size=recipe.batch,
            gradient_accumulation_steps=recipe.accumulation,
            dataloader_num_workers=recipe.workers,
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            activation_checkpointing=cuda,
            seed=config.seed,
            bf16=cuda,
            use_cpu=not cuda,
            save_steps=recipe.save_every,
            **optimiser_arguments(recipe.optimiser, steps),
        ),
        train_dataset=Dataset.from_list([{"row": row, "spans": spans} for row, spans in draws]),
        data_collator=Collator(rows, reader),
        processing_class=bundle.processor.tokenizer,
        callbacks=[Reporting(reporter, "SFT")],
        vision=bundle.vision(int(recipe.cache_gib * 2**30)),
        tokens=bundle.tokens,
        latent_weight=recipe.latent_weight,
        own_state=recipe.own_state,
    )
    resume = last_checkpoint(config.out / "steps")
    trainer.train(resume_from_checkpoint=resume)
    if trainer.is_world_process_zero():
        bundle.save(config.out / "checkpoint", recipe.teaching)
    return {"steps": steps, "rows": len(rows), "recipe": recipe.name, "resumed_from": resume and Path(resume).name}


def freeze_vision(model: Any) -> None:
    """The tower, its merger and DeepStack's mergers learn nothing: latent targets are constants (paper, Table 8)."""
    model.model.visual.requires_grad_(False)


if __name__ == "__main__":
    run_program(SftConfig, main)
