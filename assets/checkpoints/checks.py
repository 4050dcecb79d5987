"""What must hold of a checkpoint before GPUs are spent on asking it."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
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
SKIPPED_LIMIT = 0.01
"""The share of rows that may be unreadable."""
EXAMPLES = 5
FORMAT_LIMIT = 0.9
COLLAPSED = 0.99
UNFILLED_LIMIT = 0.5
"""The share of a run's places for groups that dynamic sampling may leave without a mixed one."""


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
        *(_check(key, partitions, *one) for key, partitions in stages for one in EVERY_CHECKPOINT),
        *(_check(RL, checkpoints.rl_partitions, *one, dg.AssetCheckSeverity.WARN) for one in RL_CHECKPOINTS),
        _loss_went_down(checkpoints.sft_partitions),
    ]


def _check(
    key: str,
    partitions: dg.StaticPartitionsDefinition,
    name: str,
    blocking: bool,
    description: str,
    problems_of: Callable[[Artifact], list[str]],
    shown: Callable[[Artifact], Any],
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetChecksDefinition:
    """A check that passes when no checkpoint of the run has a problem, and shows what it looked at."""

    @dg.asset_check(
        asset=key_of(key),
        name=name,
        partitions_def=partitions,
        blocking=blocking,
        description=description,
    )
    def check(context: dg.AssetCheckExecutionContext, store: dg.ResourceParam[AssetStore]) -> dg.AssetCheckResult:
        artifacts = _artifacts(context, store, key)
        problems = {recipe: problems_of(artifact) for recipe, artifact in artifacts.items()}
        looked_at = {recipe: shown(artifact) for recipe, artifact in artifacts.items()}
        return check_result(
            passed=not any(problems.values()),
            severity=severity,
            description="; ".join(
                f"{recipe}: {', '.join(found)} ({artifacts[recipe].path})"
                for recipe, found in problems.items()
                if found
            )
            or f"no problem in {', '.join(problems)}",
            remedy="read the log and the curves, and train again",
            metadata={"problems": problems, "looked_at": looked_at},
        )

    return check


def _loss_went_down(partitions: dg.StaticPartitionsDefinition) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=key_of(SFT),
        partitions_def=partitions,
        description="Cross-entropy and latent error ended below where they began; a few steps may not show it.",
    )
    def loss_went_down(
        context: dg.AssetCheckExecutionContext, store: dg.ResourceParam[AssetStore]
    ) -> dg.AssetCheckResult:
        artifacts = _artifacts(context, store, SFT)
        changes = {name: changes_of(read_metrics(one.path)) for name, one in artifacts.items()}
        return check_result(
            passed=all(change and all(last < first for first, last in change.values()) for change in changes.values()),
            severity=dg.AssetCheckSeverity.WARN,
            description=f"means over the first and the last tenth of the steps: {changes}",
            remedy="train for more steps, or with another learning_rate",
            metadata={"first_and_last_tenth": changes},
        )

    return loss_went_down


def _artifacts(context: dg.AssetCheckExecutionContext, store: AssetStore, key: str) -> dict[str, Artifact]:
    return {recipe: store.current(key, recipe) for recipe in context.partition_keys}


def last_figures(artifact: Artifact) -> dict[str, float]:
    """What the training reported last."""
    metrics: dict[str, float] = artifact.provenance["counts"]["last_metrics"]
    return metrics


def training_problems(artifact: Artifact) -> list[str]:
    """Figures that are no numbers, and a checkpoint that does not know its own spans."""
    metrics = last_figures(artifact)
    problems = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
    problems += [] if metrics else ["the training reported no figures"]
    return problems + ([] if latent_budget(artifact) else ["the checkpoint's config has no latent budget"])


def _verified(artifact: Artifact) -> dict[str, Any]:
    """What the program found when it opened the checkpoint again (training.model.verify)."""
    facts: dict[str, Any] = artifact.provenance["counts"]["verified"]
    return facts


def opening_problems(artifact: Artifact) -> list[str]:
    """What others will stumble over in this checkpoint."""
    facts = _verified(artifact)
    problems = [f"{len(names)} weights are {kind}, {names[0]} first" for kind in ("missing", "unknown")
                if (names := facts[f"weights_{kind}"])]  # fmt: skip
    if facts["plain_class"] != CLASS:
        problems.append(f"transformers takes it for a {facts['plain_class']}, not a {CLASS}")
    if not facts["decoded_tokens"]:
        problems.append(f"it answered row {facts['row_id']} with nothing")
    return problems


def latent_problems(artifact: Artifact) -> list[str]:
    """Numbers that are none."""
    facts = _verified(artifact)
    wrong = {"latents_finite": "latents of its own", "states_finite": "hidden states"}
    return [f"{what} over row {facts['row_id']} are not finite" for name, what in wrong.items() if not facts[name]]


def row_problems(artifact: Artifact) -> list[str]:
    """Whether too many rows could not be read."""
    counts = artifact.provenance["counts"]
    share = counts["skipped"] / counts["rows"]
    return [f"{counts['skipped']} of {counts['rows']} rows could not be used"] if share > SKIPPED_LIMIT else []


def skipped(artifact: Artifact) -> list[dict[str, Any]]:
    """The first rows that could not be used, with reasons, each once."""
    records = {record["row_id"]: record for record in AppendLog(artifact.path / "skipped.jsonl").records()}
    return list(records.values())[:EXAMPLES]


def changes_of(metrics: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Mean cross-entropy and latent error over the first and the last tenth of the reports that have them."""
    changes = {}
    for name in ("ce", "latent_mse"):
        values = [line[name] for line in metrics if name in line]
        if values:
            tenth = -(-len(values) // 10)
            changes[name] = [fmean(values[:tenth]), fmean(values[-tenth:])]
    return changes


def ending(artifact: Artifact) -> dict[str, float]:
    """How RL ended: means over the last tenth of the reports."""
    metrics = read_metrics(artifact.path)
    names = ("rewards/format/mean", "adjacent_cosine")
    last = {name: [line[name] for line in metrics if name in line] for name in names}
    return {name: fmean(values[-max(1, len(values) // 10) :]) for name, values in last.items() if values}


def format_problems(artifact: Artifact) -> list[str]:
    """Whether answers have stopped following the grammar."""
    share = ending(artifact).get("rewards/format/mean", 0.0)
    return [] if share > FORMAT_LIMIT else [f"{share:.1%} of the answers followed the grammar at the end"]


def collapse_problems(artifact: Artifact) -> list[str]:
    """Whether spans say one thing over and over; nothing to say where no span was opened."""
    alike = ending(artifact).get("adjacent_cosine", 0.0)
    return [f"a latent and the next one have a cosine of {alike:.3f}"] if alike > COLLAPSED else []


def unfilled(artifact: Artifact) -> dict[str, float]:
    """The share of places in rollout batches for which no mixed group was found, over the whole run."""
    shares = [line["groups/unmixed_ratio"] for line in read_metrics(artifact.path) if "groups/unmixed_ratio" in line]
    return {"groups/unmixed_ratio": fmean(shares)} if shares else {}


def unfilled_problems(artifact: Artifact) -> list[str]:
    """Whether much of the rollouts gave no gradient."""
    share = unfilled(artifact).get("groups/unmixed_ratio", 0.0)
    found = f"{share:.0%} of the places found no group with right and wrong answers: harder rows, or fewer steps"
    return [found] if share > UNFILLED_LIMIT else []


def latent_budget(artifact: Artifact) -> int | None:
    """The most latents that a span of this checkpoint may have, from its own config."""
    config = json.loads(artifact.file(f"{MODEL}/config.json").read_text())
    return config.get("future_l1", {}).get("max_latents")


EVERY_CHECKPOINT = (
    (
        "training_went_well",
        True,
        "The last figures of the training are finite, and the checkpoint knows its latent budget.",
        training_problems,
        last_figures,
    ),
    (
        "loads_and_decodes",
        True,
        "Plain transformers opened the saved folder with all its weights; it answered a training row.",
        opening_problems,
        _verified,
    ),
    (
        "latents_are_finite",
        True,
        "What the saved model imagined, and its states over a training row, are finite numbers.",
        latent_problems,
        _verified,
    ),
    (
        "rows_were_readable",
        False,
        "Nearly every row of the set could be trained on; others took the place of the rest.",
        row_problems,
        skipped,
    ),
)
"""Checks of every stage: name, whether it blocks, what it says, what it finds, and what it shows."""

RL_CHECKPOINTS = (
    (
        "answers_stay_well_formed",
        False,
        "At the end of RL more than nine answers of ten followed the recipe's own grammar.",
        format_problems,
        ending,
    ),
    (
        "latents_have_not_collapsed",
        False,
        "The latents of a span still differ from one another at the end of RL.",
        collapse_problems,
        ending,
    ),
    (
        "groups_were_mixed",
        False,
        "Dynamic sampling found groups with right and wrong answers for most places of the rollout batches.",
        unfilled_problems,
        unfilled,
    ),
)
