"""Checks of a checkpoint before GPUs are spent on its answers."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import dagster as dg

from assets.checkpoints.assets import BASE, RL, SFT
from assets.framework.define import check_result
from assets.framework.partitions import Checkpoints, key_of
from assets.framework.store import AssetStore
from training.runtime.programs import read_metrics
from training.storage.artifacts import MODEL, Artifact
from training.storage.files import AppendLog

CLASS = "Qwen3VLForConditionalGeneration"
MAX_SKIPPED_SHARE = 0.01
"""The largest share of rows that may be unusable."""
MAX_EXAMPLES = 5
MIN_FORMAT = 0.9
"""The smallest mean format reward at the end of RL."""
MAX_ADJACENT_COSINE = 0.99
MAX_UNMIXED_RATIO = 0.5
"""The largest share of a run's groups that dynamic sampling may leave unmixed."""


@dataclass(frozen=True)
class Check:
    """A check of every checkpoint of a stage: `problems` lists what is wrong with one, `remedy` what to do then, and
    `evidence` is shown either way."""

    name: str
    description: str
    problems: Callable[[Artifact], list[str]]
    evidence: Callable[[Artifact], Any]
    remedy: str
    blocking: bool = True
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR


def checkpoint_checks(checkpoints: Checkpoints) -> list[dg.AssetChecksDefinition]:
    @dg.asset_check(
        asset=key_of(BASE),
        blocking=True,
        description="The base is a Qwen3-VL with its processor and safetensors, and needs no code of its own.",
    )
    def base_is_complete(store: dg.ResourceParam[AssetStore]) -> dg.AssetCheckResult:
        folder = store.current(BASE).folder(MODEL)
        config = json.loads((folder / "config.json").read_text())
        names = {path.name for path in folder.iterdir()}
        weights = sorted(name for name in names if name.endswith(".safetensors"))
        return check_result(
            passed=config.get("model_type") == "qwen3_vl"
            and bool(weights)
            and "tokenizer.json" in names
            and "auto_map" not in config,
            description=f"{folder} has model_type {config.get('model_type')!r} (wanted: 'qwen3_vl'), {len(weights)} "
            f"files of safetensors, {'a' if 'tokenizer.json' in names else 'no'} tokenizer.json and "
            f"{'code of its own (auto_map), which is not run' if 'auto_map' in config else 'no code of its own'}",
            remedy="name the folder of a Qwen3-VL that transformers wrote, as `base` in the profile",
            metadata={"model_type": str(config.get("model_type")), "weights": weights},
        )

    stages = [(SFT, checkpoints.sft_partitions), (RL, checkpoints.rl_partitions)]
    return [
        base_is_complete,
        *(_check(key, partitions, check) for key, partitions in stages for check in CHECKPOINT_CHECKS),
        *(_check(RL, checkpoints.rl_partitions, check) for check in RL_CHECKS),
        _check(SFT, checkpoints.sft_partitions, LOSS_CHECK),
    ]


def _check(key: str, partitions: dg.StaticPartitionsDefinition, declared: Check) -> dg.AssetChecksDefinition:
    """The check of all checkpoints of a run; it passes when none has a problem."""

    @dg.asset_check(
        asset=key_of(key),
        name=declared.name,
        partitions_def=partitions,
        blocking=declared.blocking,
        description=declared.description,
    )
    def check(context: dg.AssetCheckExecutionContext, store: dg.ResourceParam[AssetStore]) -> dg.AssetCheckResult:
        artifacts = {recipe: store.current(key, recipe) for recipe in context.partition_keys}
        problems = {recipe: declared.problems(artifact) for recipe, artifact in artifacts.items()}
        wrong = [f"{recipe}: {', '.join(all_)} ({artifacts[recipe].path})" for recipe, all_ in problems.items() if all_]
        return check_result(
            passed=not wrong,
            severity=declared.severity,
            description="; ".join(wrong) or f"no problem in {', '.join(problems)}",
            remedy=declared.remedy,
            metadata={
                "problems": problems,
                "evidence": {recipe: declared.evidence(artifact) for recipe, artifact in artifacts.items()},
            },
        )

    return check


def last_metrics(artifact: Artifact) -> dict[str, float]:
    """The last metrics of the training."""
    metrics: dict[str, float] = artifact.provenance["counts"]["last_metrics"]
    return metrics


def training_problems(artifact: Artifact) -> list[str]:
    """Metrics that are not finite, and a missing latent budget."""
    metrics = last_metrics(artifact)
    problems = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
    problems += [] if metrics else ["the training reported no metrics"]
    return problems + ([] if latent_budget(artifact) else ["the checkpoint's config has no latent budget"])


def _verified(artifact: Artifact) -> dict[str, Any]:
    """The facts about the saved checkpoint (training.model.verify)."""
    facts: dict[str, Any] = artifact.provenance["counts"]["verified"]
    return facts


def opening_problems(artifact: Artifact) -> list[str]:
    """Weights and classes that plain transformers does not expect, and an empty answer."""
    facts = _verified(artifact)
    problems = [f"{len(names)} weights are {kind}, {names[0]} first" for kind in ("missing", "unknown")
                if (names := facts[f"weights_{kind}"])]  # fmt: skip
    if facts["plain_class"] != CLASS:
        problems.append(f"transformers takes it for a {facts['plain_class']}, not a {CLASS}")
    if not facts["decoded_tokens"]:
        problems.append(f"it answered row {facts['row_id']} with nothing")
    return problems


def latent_problems(artifact: Artifact) -> list[str]:
    """Latents and states that are not finite."""
    facts = _verified(artifact)
    kinds = {"latents_finite": "latents of its own", "states_finite": "hidden states"}
    return [f"{what} over row {facts['row_id']} are not finite" for name, what in kinds.items() if not facts[name]]


def row_problems(artifact: Artifact) -> list[str]:
    """Whether too many rows could not be read."""
    counts = artifact.provenance["counts"]
    share = counts["skipped"] / counts["rows"]
    return [f"{counts['skipped']} of {counts['rows']} rows could not be used"] if share > MAX_SKIPPED_SHARE else []


def skipped_rows(artifact: Artifact) -> list[dict[str, Any]]:
    """The first rows that could not be used, with reasons, each once."""
    records = {record["row_id"]: record for record in AppendLog(artifact.path / "skipped.jsonl").records()}
    return list(records.values())[:MAX_EXAMPLES]


def changes_of(metrics: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Mean cross-entropy and latent error over the first and the last tenth of the reports that have them."""
    changes = {}
    for name in ("ce", "latent_mse"):
        values = [line[name] for line in metrics if name in line]
        if values:
            tenth = -(-len(values) // 10)
            changes[name] = [fmean(values[:tenth]), fmean(values[-tenth:])]
    return changes


def loss_changes(artifact: Artifact) -> dict[str, list[float]]:
    """`changes_of` the training."""
    return changes_of(read_metrics(artifact.path))


def loss_problems(artifact: Artifact) -> list[str]:
    """Losses that did not fall between the first and the last tenth of the reports."""
    changes = loss_changes(artifact)
    worse = {name: (first, last) for name, (first, last) in changes.items() if not last < first}
    risen = [f"{name} went from {first:.4g} to {last:.4g}" for name, (first, last) in worse.items()]
    return risen if changes else ["the training reported no losses"]


def last_rl_metrics(artifact: Artifact) -> dict[str, float]:
    """Means over the last tenth of the reports of RL."""
    metrics = read_metrics(artifact.path)
    names = ("rewards/format/mean", "adjacent_cosine")
    last = {name: [line[name] for line in metrics if name in line] for name in names}
    return {name: fmean(values[-max(1, len(values) // 10) :]) for name, values in last.items() if values}


def format_problems(artifact: Artifact) -> list[str]:
    """Whether answers have stopped following the grammar."""
    share = last_rl_metrics(artifact).get("rewards/format/mean", 0.0)
    return [] if share > MIN_FORMAT else [f"{share:.1%} of the answers followed the grammar at the end"]


def collapse_problems(artifact: Artifact) -> list[str]:
    """Whether the latents of a span are all alike; no problem where no span was opened."""
    alike = last_rl_metrics(artifact).get("adjacent_cosine", 0.0)
    return [f"a latent and the next one have a cosine of {alike:.3f}"] if alike > MAX_ADJACENT_COSINE else []


def unmixed_ratio(artifact: Artifact) -> dict[str, float]:
    """The share of places in rollout batches for which no mixed group was found, over the whole run."""
    shares = [line["groups/unmixed_ratio"] for line in read_metrics(artifact.path) if "groups/unmixed_ratio" in line]
    return {"groups/unmixed_ratio": fmean(shares)} if shares else {}


def unmixed_problems(artifact: Artifact) -> list[str]:
    """Whether much of the rollouts gave no gradient."""
    share = unmixed_ratio(artifact).get("groups/unmixed_ratio", 0.0)
    problem = f"{share:.0%} of the groups had no correct and incorrect answers"
    return [problem] if share > MAX_UNMIXED_RATIO else []


def latent_budget(artifact: Artifact) -> int | None:
    """The most latents that a span of this checkpoint may have, from its own config."""
    config = json.loads(artifact.file(f"{MODEL}/config.json").read_text())
    return config.get("future_l1", {}).get("max_latents")


CHECKPOINT_CHECKS = (
    Check(
        "training_went_well",
        "The last metrics of the training are finite, and the checkpoint's config has its latent budget.",
        training_problems,
        last_metrics,
        "train it again, with a lower learning rate where it diverged",
    ),
    Check(
        "loads_and_decodes",
        "Plain transformers opened the saved folder with all its weights; it answered a training row.",
        opening_problems,
        _verified,
        "delete the folder and materialise it again",
    ),
    Check(
        "latents_are_finite",
        "The latents of the saved model and its states over a training row are finite numbers.",
        latent_problems,
        _verified,
        "train it again, with a lower learning rate",
    ),
    Check(
        "rows_were_readable",
        "Nearly every row of the set could be trained on; others took the place of the rest.",
        row_problems,
        skipped_rows,
        "look into skipped.jsonl, put the clips right, and materialise the set again",
        blocking=False,
    ),
)
"""The checks of SFT and RL."""

LOSS_CHECK = Check(
    "loss_went_down",
    "Cross-entropy and latent error ended below where they began; a few steps may not show it.",
    loss_problems,
    loss_changes,
    "train for more steps, or with another learning_rate",
    blocking=False,
    severity=dg.AssetCheckSeverity.WARN,
)
"""The check of SFT alone."""

RL_CHECKS = (
    Check(
        "answers_stay_well_formed",
        "At the end of RL more than nine answers of ten followed the recipe's own grammar.",
        format_problems,
        last_rl_metrics,
        "raise the weight of the format reward, or train fewer steps",
        blocking=False,
        severity=dg.AssetCheckSeverity.WARN,
    ),
    Check(
        "latents_have_not_collapsed",
        "The latents of a span still differ from one another at the end of RL.",
        collapse_problems,
        last_rl_metrics,
        "raise latent_anchor_coef, or train fewer steps",
        blocking=False,
        severity=dg.AssetCheckSeverity.WARN,
    ),
    Check(
        "groups_were_mixed",
        "Dynamic sampling found groups with correct and incorrect answers for most places of the rollout batches.",
        unmixed_problems,
        unmixed_ratio,
        "choose harder rows, or fewer steps",
        blocking=False,
        severity=dg.AssetCheckSeverity.WARN,
    ),
)
