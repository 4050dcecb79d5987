"""`python -m training.rl --config rl.json`: an SFT checkpoint and questions to an LA-DAPO checkpoint."""

import copy
import os
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import GRPOConfig

from training.grading.judge import Judge, JudgeSettings
from training.model.checkpoint import load
from training.model.rows import SKIPPED, RowReader, Rows
from training.model.saving import learn_in_fp32, leave_checkpoint
from training.model.verify import train_and_verify
from training.model.vision import FrozenVision
from training.optimiser import optimiser_arguments
from training.recipes import RlRecipe
from training.rl.grading import RolloutGrader
from training.rl.reward_functions import reward_functions
from training.rl.surplus import file_of
from training.rl.trainer import LatentGRPOTrainer
from training.runtime.callbacks import Reporting, checkpoint_on_interrupt, last_checkpoint
from training.runtime.programs import CHECKPOINT, Reporter, TrainingConfig, run_program
from training.runtime.provenance import provenance_of


class RlConfig(TrainingConfig):
    """What to train, and how; without a judge, open answers stay unjudged."""

    recipe: RlRecipe
    sft: Path
    judge: JudgeSettings | None = None


def main(config: RlConfig, reporter: Reporter) -> dict[str, Any]:
    """Trains, resuming from what `out` holds, and leaves `out/checkpoint`, verified by the first process."""
    return train_and_verify(config, reporter, _train)


def _train(
    config: RlConfig, reporter: Reporter, rows: list[dict[str, Any]], device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Leaves `out/checkpoint`.  The model is let go when this returns."""
    recipe, cuda = config.recipe, device.type == "cuda"
    recipe_json = recipe.model_dump(mode="json")
    made_from = provenance_of("training.rl", config.data, len(rows), config.sft, recipe_json, config.seed)
    if len(rows) < recipe.prompts:
        raise ValueError(f"{config.data} holds {len(rows)} rows and a rollout batch asks {recipe.prompts} of them: "
                         "curate more, or lower the recipe's `prompts`")  # fmt: skip
    bundle = load(config.sft, device, dtype)
    if bundle.latent_config is None:
        raise ValueError(f"{config.sft} has no latent configuration: RL starts from an SFT checkpoint")
    bundle.model.model.visual.requires_grad_(False)
    reference = copy.deepcopy(bundle.model).requires_grad_(False).eval()
    learn_in_fp32(bundle.model)
    devices = int(os.environ.get("WORLD_SIZE", "1"))
    steps = recipe.steps or len(rows) // recipe.prompts * recipe.minibatches
    passes = recipe.minibatches * recipe.accumulation
    judge = Judge(config.judge, on_outage="raise") if config.judge else None
    grader = RolloutGrader(recipe, judge, reporter.log)
    trainer = LatentGRPOTrainer(
        model=bundle.model,
        reward_funcs=reward_functions(recipe, bundle.tokens, grader),
        args=GRPOConfig(
            output_dir=str(config.out / "steps"),
            max_steps=steps,
            num_generations=recipe.group,
            per_device_train_batch_size=recipe.prompts * recipe.group // (devices * passes),
            gradient_accumulation_steps=recipe.accumulation,
            steps_per_generation=passes,
            reward_weights=list(recipe.weights),
            beta=0.0,
            max_completion_length=recipe.max_new_tokens,
            temperature=recipe.temperature,
            top_p=recipe.top_p,
            activation_checkpointing=cuda,
            ddp_timeout=24 * 3600,  # seconds: all wait while one waits for the judge
            ddp_find_unused_parameters=False,  # each batch uses every weight that learns, latents or not
            seed=config.seed,
            bf16=dtype == torch.bfloat16,
            use_cpu=not cuda,
            save_steps=-(-recipe.save_every // recipe.minibatches) * recipe.minibatches,  # between rollout batches
            **optimiser_arguments(recipe.optimiser, steps),
        ),
        train_dataset=Dataset.from_list([{"prompt": row["question"], "row": i} for i, row in enumerate(rows)]),
        processing_class=bundle.processor.tokenizer,
        callbacks=[Reporting(reporter, "RL")],
        recipe=recipe,
        bundle=bundle,
        grader=grader,
        reference=reference,
        rows=Rows(
            rows, RowReader(bundle.encoder(bundle.latent_config), keep=recipe.cache_gib > 0), config.out / SKIPPED
        ),
        vision=FrozenVision(reference, int(recipe.cache_gib * 2**30)),  # its tower is whole in every process
    )
    resume = last_checkpoint(config.out / "steps", needs=[file_of(i) for i in range(devices)])
    with checkpoint_on_interrupt(trainer, every=recipe.minibatches):
        trainer.train(resume_from_checkpoint=resume)
    provenance = {**made_from, "steps": steps}
    leave_checkpoint(trainer.accelerator, bundle, bundle.latent_config, config.out / CHECKPOINT, dtype, provenance)
    trainer.accelerator.free_memory()
    trainer.accelerator.end_training()
    return {"steps": steps, "rows": len(rows), "recipe": recipe.name, "resumed_from": resume and Path(resume).name}


if __name__ == "__main__":
    run_program(RlConfig, main)
