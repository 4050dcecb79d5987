"""`python -m training.sft --config sft.json`: a base checkpoint and curated rows to a Future-L1 checkpoint."""

import os
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig as TrlConfig

from training.model.checkpoint import FutureL1, load
from training.model.rows import SKIPPED, RowReader, Rows
from training.model.saving import is_sharded, learn_in_fp32, leave_checkpoint
from training.model.verify import train_and_verify
from training.optimiser import optimiser_arguments
from training.recipes import LoraSettings, SftRecipe
from training.runtime.callbacks import Reporting, checkpoint_on_interrupt, last_checkpoint
from training.runtime.programs import CHECKPOINT, Reporter, TrainingConfig, run_program
from training.runtime.provenance import provenance_of
from training.sft.sampler import draw_rows
from training.sft.trainer import Collator, LatentSFTTrainer

PROJECTIONS = r".*\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"


class SftConfig(TrainingConfig):
    """What to train, and how."""

    recipe: SftRecipe
    base: Path


def main(config: SftConfig, reporter: Reporter) -> dict[str, Any]:
    """Trains, resuming from what `out` holds, and leaves `out/checkpoint`, verified by the first process."""
    return train_and_verify(config, reporter, _train)


def _train(
    config: SftConfig, reporter: Reporter, rows: list[dict[str, Any]], device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Leaves `out/checkpoint`.  The model is let go when this returns."""
    recipe, cuda, sharded = config.recipe, device.type == "cuda", is_sharded()
    if sharded and recipe.lora:
        raise ValueError("LoRA is merged into whole weights: launch it without FSDP, with the model in each process")
    recipe_json = recipe.model_dump(mode="json")
    made_from = provenance_of("training.sft", config.data, len(rows), config.base, recipe_json, config.seed)
    bundle = load(config.base, device, dtype, config.seed)
    freeze_vision(bundle.model)
    if not recipe.lora:
        learn_in_fp32(bundle.model)
    encoder = bundle.encoder(recipe.latent_config, supervise_length=recipe.supervise_length)
    usable = Rows(rows, RowReader(encoder, keep=recipe.cache_gib > 0), config.out / SKIPPED)
    devices = int(os.environ.get("WORLD_SIZE", "1"))
    per_step = recipe.batch * recipe.accumulation * devices
    draws = draw_rows(
        [len(row["future"]) for row in rows], recipe.batch, recipe.span_share, recipe.bucket, config.seed,
        epochs=recipe.epochs, total=recipe.steps and recipe.steps * per_step, devices=devices,
    )  # fmt: skip
    steps = -(-len(draws) // per_step)
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
            ddp_find_unused_parameters=False,  # each batch uses every weight that learns, latents or not
            bf16=dtype == torch.bfloat16,
            use_cpu=not cuda,
            save_steps=recipe.save_every,
            **optimiser_arguments(recipe.optimiser, steps),
        ),
        train_dataset=Dataset.from_list([dict(zip(("row", "spans", "counts"), draw, strict=True)) for draw in draws]),
        data_collator=Collator(usable),
        processing_class=bundle.processor.tokenizer,
        callbacks=[Reporting(reporter, "SFT")],
        peft_config=peft_config(recipe.lora, bundle) if recipe.lora else None,
        bundle=bundle,
        recipe=recipe,
        vision=bundle.vision(int(recipe.cache_gib * 2**30), apart=sharded),
    )
    resume = last_checkpoint(config.out / "steps")
    with checkpoint_on_interrupt(trainer):
        trainer.train(resume_from_checkpoint=resume)
    if recipe.lora:
        bundle.model = trainer.model.merge_and_unload()
    provenance = {**made_from, "steps": steps}
    leave_checkpoint(trainer.accelerator, bundle, recipe.latent_config, config.out / CHECKPOINT, dtype, provenance)
    trainer.accelerator.free_memory()
    trainer.accelerator.end_training()
    return {"steps": steps, "rows": len(rows), "recipe": recipe.name, "resumed_from": resume and Path(resume).name}


def freeze_vision(model: Any) -> None:
    """The tower, its merger and DeepStack's mergers learn nothing: latent targets are constants (paper, Table 8)."""
    model.model.visual.requires_grad_(False)


def peft_config(settings: LoraSettings, bundle: FutureL1) -> LoraConfig:
    """PEFT's configuration: adapters beside the language model's projections, merged before the checkpoint is saved.

    The embedding and head rows of the three latent tokens are trained whole: they are new, and a low rank of nothing.
    """
    t = bundle.tokens
    new = [t.latent, t.latent_start, t.latent_end]
    tied = bundle.model.config.tie_word_embeddings
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=PROJECTIONS,
        trainable_token_indices={"embed_tokens": new} if tied else {"embed_tokens": new, "lm_head": new},
    )


if __name__ == "__main__":
    run_program(SftConfig, main)
