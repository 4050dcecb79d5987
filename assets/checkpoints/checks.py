"""What must hold of a checkpoint before GPUs are spent on asking it."""

import json
import math

import dagster as dg

from assets.checkpoints.assets import BASE, MODEL, RL, SFT
from assets.partitions import Checkpoints
from assets.store import AssetStore
from training.artifacts import Artifact


def checkpoint_checks(checkpoints: Checkpoints) -> list[dg.AssetChecksDefinition]:
    @dg.asset_check(
        asset=dg.AssetKey(BASE.split("/")),
        blocking=True,
        description="The base is a Qwen3-VL with its processor and safetensors, and needs no code of its own.",
    )
    def base_is_complete(store: dg.ResourceParam[AssetStore]) -> dg.AssetCheckResult:
        folder = store.current(BASE).path / MODEL
        config = json.loads((folder / "config.json").read_text())
        names = {path.name for path in folder.iterdir()}
        weights = sorted(name for name in names if name.endswith(".safetensors"))
        return dg.AssetCheckResult(
            passed=config.get("model_type") == "qwen3_vl"
            and bool(weights)
            and "tokenizer.json" in names
            and "auto_map" not in config,
            metadata={"model_type": str(config.get("model_type")), "weights": weights},
        )

    return [
        base_is_complete,
        _training_went_well(SFT, checkpoints.sft_partitions),
        _training_went_well(RL, checkpoints.rl_partitions),
    ]


def _training_went_well(key: str, partitions: dg.StaticPartitionsDefinition) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=dg.AssetKey(key.split("/")),
        name="training_went_well",
        partitions_def=partitions,
        blocking=True,
        description="The last figures of the training are finite, and the checkpoint knows its latent budget.",
    )
    def training_went_well(
        context: dg.AssetCheckExecutionContext, store: dg.ResourceParam[AssetStore]
    ) -> dg.AssetCheckResult:
        artifacts = {recipe: store.current(key, recipe) for recipe in context.partition_keys}
        problems = {recipe: _problems(artifact) for recipe, artifact in artifacts.items()}
        return dg.AssetCheckResult(
            passed=not any(problems.values()),
            metadata={
                "problems": problems,
                "last_figures": {name: one.provenance["counts"]["last_metrics"] for name, one in artifacts.items()},
            },
        )

    return training_went_well


def _problems(artifact: Artifact) -> list[str]:
    metrics: dict[str, float] = artifact.provenance["counts"]["last_metrics"]
    problems = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
    problems += [] if metrics else ["the training reported no figures"]
    return problems + ([] if latent_budget(artifact) else ["the checkpoint's config has no latent budget"])


def latent_budget(artifact: Artifact) -> int | None:
    """The most latents that a span of this checkpoint may have, from its own config."""
    config = json.loads((artifact.path / MODEL / "config.json").read_text())
    return config.get("future_l1", {}).get("latents")
