"""`python -m training.rl --config rl.json`: an SFT checkpoint and questions to an LA-DAPO checkpoint."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

from training.grading.judge import Judge, JudgeSettings
from training.recipes import RlRecipe
from training.runtime.imports import importing
from training.runtime.programs import Reporter, TrainingConfig, run_program

with importing():
    from datasets import Dataset
    from trl import GRPOConfig

    from training.adapters import add_adapters
    from training.arguments import Preparation, trainer_arguments
    from training.model.checkpoint import load
    from training.model.placement import is_sharded, learn_in_fp32
    from training.model.rows import SKIPPED, RowReader, Rows
    from training.rl.grading import RolloutGrader
    from training.rl.surplus import FILE
    from training.rl.trainer import LatentGRPOTrainer
    from training.runtime.callbacks import Reporting
    from training.trainer import run_training, save_checkpoint, train


class RlConfig(TrainingConfig):
    """The config of `python -m training.rl`: a recipe, the SFT checkpoint, and the judge; without one, open answers
    stay unjudged."""

    recipe: RlRecipe
    sft: Path
    judge: JudgeSettings | None = None


def main(config: RlConfig, reporter: Reporter) -> dict[str, Any]:
    """Trains, resuming from what `out` holds, and leaves `out/checkpoint`, verified by the first process."""
    train_model = partial(_train, config, reporter)
    return run_training(train_model, config, config.recipe, "training.rl", config.sft, reporter)


def _train(config: RlConfig, reporter: Reporter, preparation: Preparation) -> dict[str, Any]:
    recipe, rows = config.recipe, preparation.rows
    if len(rows) < recipe.prompts_per_batch:
        raise ValueError(f"{config.data} holds {len(rows)} rows and a rollout batch needs {recipe.prompts_per_batch}: "
                         "curate more, or lower the recipe's prompts_per_batch")  # fmt: skip
    bundle = load(config.sft, preparation.device, preparation.dtype)
    if bundle.latent_config is None:
        raise ValueError(f"{config.sft} has no latent configuration: RL starts from an SFT checkpoint")
    bundle.model.model.visual.requires_grad_(False)
    whole_reference = recipe.has_reference and not recipe.lora
    reference = copy.deepcopy(bundle.model).requires_grad_(False).eval() if whole_reference else None
    model = add_adapters(bundle, recipe.lora, config.seed) if recipe.lora else bundle.model
    learn_in_fp32(model)
    images = {"image_tokens": recipe.image_tokens} if recipe.image_tokens else {}
    encoder = bundle.encoder(bundle.latent_config.model_copy(update=images))
    steps = recipe.max_steps or len(rows) // recipe.prompts_per_batch * recipe.updates_per_batch
    judge = Judge(config.judge, on_outage="raise") if config.judge else None
    trainer = LatentGRPOTrainer(
        model=model,
        args=GRPOConfig(
            **trainer_arguments(config, recipe, steps, preparation),
            steps_per_generation=recipe.updates_per_batch * preparation.accumulation,
            save_steps=-(-recipe.save_steps // recipe.updates_per_batch) * recipe.updates_per_batch,  # between batches
            num_generations=recipe.num_generations,
            beta=0.0,
            max_completion_length=recipe.max_new_tokens,
            temperature=recipe.temperature,
            top_p=recipe.top_p,
            ddp_timeout=24 * 3600,  # seconds: all wait while one waits for the judge
        ),
        train_dataset=Dataset.from_list([{"prompt": row["question"], "row": i} for i, row in enumerate(rows)]),
        processing_class=bundle.processor.tokenizer,
        callbacks=[Reporting(reporter, "RL")],
        recipe=recipe,
        bundle=bundle,
        grader=RolloutGrader(recipe.parser, judge, reporter.log),
        reference=reference,
        rows=Rows(rows, RowReader(encoder, keep=recipe.cache_gib > 0), config.out / SKIPPED),
        vision=bundle.vision(int(recipe.cache_gib * 2**30), apart=is_sharded()),
    )
    resumed_from = train(trainer, every=recipe.updates_per_batch, needs=[FILE])
    save_checkpoint(trainer, bundle, bundle.latent_config, config, recipe, preparation, steps)
    return {"steps": steps, "resumed_from": resumed_from}


if __name__ == "__main__":
    run_program(RlConfig, main)
