"""Checks of a checkpoint before GPUs are spent on its answers."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import dagster as dg

from assets.checkpoints.assets import BASE, RL, SFT
from assets.checkpoints.current_sets import current_sets_check
from assets.framework.define import Check, CheckOutcome, check
from assets.framework.partitions import Checkpoints
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

Problems = Callable[[Artifact], list[str]]


@dataclass(frozen=True)
class CheckpointCheck:
    """A check of every checkpoint of a stage: `problems` lists what is wrong with one."""

    problems: Problems
    check: Check


def checkpoint_checks(checkpoints: Checkpoints) -> list[dg.AssetChecksDefinition]:
    of_both = (training_went_well, loads_and_decodes, latents_are_finite, rows_were_readable)
    of_rl = (answers_stay_well_formed, latents_have_not_collapsed, groups_were_mixed)
    return [
        base_is_complete.of(BASE),
        *(one.check.of(SFT, checkpoints.sft_partitions) for one in (*of_both, loss_went_down)),
        *(one.check.of(RL, checkpoints.rl_partitions) for one in (*of_both, *of_rl)),
        *(current_sets_check(key, checkpoints) for key in (SFT, RL)),
    ]


@check(
    "The base is a Qwen3-VL with its processor and safetensors, and needs no code of its own.",
    "name the folder of a Qwen3-VL that transformers wrote, as `base` in the profile",
    blocking=True,
)
def base_is_complete(store: AssetStore, key: str) -> CheckOutcome:
    folder = store.current(key).folder(MODEL)
    config = json.loads((folder / "config.json").read_text())
    weights = sorted(path.name for path in folder.glob("*.safetensors"))
    has_tokenizer, has_code = (folder / "tokenizer.json").exists(), "auto_map" in config
    return CheckOutcome(
        passed=config.get("model_type") == "qwen3_vl" and bool(weights) and has_tokenizer and not has_code,
        description=f"{folder} has model_type {config.get('model_type')!r} (wanted: 'qwen3_vl'), {len(weights)} files "
        f"of safetensors, {'a' if has_tokenizer else 'no'} tokenizer.json and "
        f"{'code of its own (auto_map), which is not run' if has_code else 'no code of its own'}",
        metadata={"model_type": str(config.get("model_type")), "weights": weights},
    )


def checkpoint_check(
    description: str,
    remedy: str,
    evidence: Callable[[Artifact], Any],
    blocking: bool = False,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> Callable[[Problems], CheckpointCheck]:
    """Makes a check of a function that lists a checkpoint's problems: it passes when none of a run has one.

    `evidence` of each checkpoint is shown either way.
    """

    def define(problems_of: Problems) -> CheckpointCheck:
        def outcome(store: AssetStore, key: str, recipes: Sequence[str]) -> CheckOutcome:
            artifacts = {recipe: store.current(key, recipe) for recipe in recipes}
            problems = {recipe: problems_of(artifact) for recipe, artifact in artifacts.items()}
            wrong = [f"{name}: {', '.join(some)} ({artifacts[name].path})" for name, some in problems.items() if some]
            return CheckOutcome(
                passed=not wrong,
                description="; ".join(wrong) or f"no problem in {', '.join(problems)}",
                metadata={
                    "problems": problems,
                    "evidence": {recipe: evidence(artifact) for recipe, artifact in artifacts.items()},
                },
            )

        name = problems_of.__name__
        return CheckpointCheck(problems_of, Check(outcome, name, description, remedy, blocking, severity))

    return define


def last_metrics(artifact: Artifact) -> dict[str, float]:
    """The last metrics of the training."""
    metrics: dict[str, float] = artifact.provenance["counts"]["last_metrics"]
    return metrics


@checkpoint_check(
    "The last metrics of the training are finite, and the checkpoint's config has its latent budget.",
    "train it again, with a lower learning rate where it diverged",
    last_metrics,
    blocking=True,
)
def training_went_well(artifact: Artifact) -> list[str]:
    metrics = last_metrics(artifact)
    config = json.loads(artifact.file(f"{MODEL}/config.json").read_text())
    problems = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
    problems += [] if metrics else ["the training reported no metrics"]
    has_budget = config.get("future_l1", {}).get("max_latents")
    return problems + ([] if has_budget else ["the checkpoint's config has no latent budget"])


def verified(artifact: Artifact) -> dict[str, Any]:
    """The facts about the saved checkpoint (training.model.verify)."""
    facts: dict[str, Any] = artifact.provenance["counts"]["verified"]
    return facts


@checkpoint_check(
    "Plain transformers opened the saved folder with all its weights; it answered a training row.",
    "delete the folder and materialise it again",
    verified,
    blocking=True,
)
def loads_and_decodes(artifact: Artifact) -> list[str]:
    facts = verified(artifact)
    problems = [f"{len(names)} weights are {kind}, {names[0]} first" for kind in ("missing", "unknown")
                if (names := facts[f"weights_{kind}"])]  # fmt: skip
    if facts["plain_class"] != CLASS:
        problems.append(f"transformers takes it for a {facts['plain_class']}, not a {CLASS}")
    if not facts["decoded_tokens"]:
        problems.append(f"it answered row {facts['row_id']} with nothing")
    return problems


@checkpoint_check(
    "The latents of the saved model and its states over a training row are finite numbers.",
    "train it again, with a lower learning rate",
    verified,
    blocking=True,
)
def latents_are_finite(artifact: Artifact) -> list[str]:
    facts = verified(artifact)
    kinds = {"latents_finite": "latents of its own", "states_finite": "hidden states"}
    return [f"{what} over row {facts['row_id']} are not finite" for name, what in kinds.items() if not facts[name]]


def skipped_rows(artifact: Artifact) -> list[dict[str, Any]]:
    """The first rows that could not be used, with reasons, each once."""
    records = {record["row_id"]: record for record in AppendLog(artifact.path / "skipped.jsonl").records()}
    return list(records.values())[:MAX_EXAMPLES]


@checkpoint_check(
    "Nearly every row of the set could be trained on; others took the place of the rest.",
    "look into skipped.jsonl, put the clips right, and materialise the set again",
    skipped_rows,
)
def rows_were_readable(artifact: Artifact) -> list[str]:
    counts = artifact.provenance["counts"]
    too_many = counts["skipped"] / counts["rows"] > MAX_SKIPPED_SHARE
    return [f"{counts['skipped']} of {counts['rows']} rows could not be used"] if too_many else []


def loss_changes(artifact: Artifact) -> dict[str, list[float]]:
    """Mean cross-entropy and latent error over the first and the last tenth of the reports that have them."""
    return {
        name: [fmean(values[: _tenth(values)]), fmean(values[-_tenth(values) :])]
        for name, values in _series(artifact, "ce", "latent_mse").items()
    }


@checkpoint_check(
    "Cross-entropy and latent error ended below where they began; a few steps may not show it.",
    "train for more steps, or with another learning_rate",
    loss_changes,
    severity=dg.AssetCheckSeverity.WARN,
)
def loss_went_down(artifact: Artifact) -> list[str]:
    changes = loss_changes(artifact)
    worse = {name: (first, last) for name, (first, last) in changes.items() if not last < first}
    risen = [f"{name} went from {first:.4g} to {last:.4g}" for name, (first, last) in worse.items()]
    return risen if changes else ["the training reported no losses"]


def last_rl_metrics(artifact: Artifact) -> dict[str, float]:
    """Means over the last tenth of the reports of RL."""
    series = _series(artifact, "rewards/format/mean", "adjacent_cosine")
    return {name: fmean(values[-max(1, len(values) // 10) :]) for name, values in series.items()}


@checkpoint_check(
    "At the end of RL more than nine answers of ten followed the recipe's own grammar.",
    "raise the weight of the format reward, or train fewer steps",
    last_rl_metrics,
    severity=dg.AssetCheckSeverity.WARN,
)
def answers_stay_well_formed(artifact: Artifact) -> list[str]:
    share = last_rl_metrics(artifact).get("rewards/format/mean", 0.0)
    return [] if share > MIN_FORMAT else [f"{share:.1%} of the answers followed the grammar at the end"]


@checkpoint_check(
    "The latents of a span still differ from one another at the end of RL.",
    "raise latent_anchor_coef, or train fewer steps",
    last_rl_metrics,
    severity=dg.AssetCheckSeverity.WARN,
)
def latents_have_not_collapsed(artifact: Artifact) -> list[str]:
    alike = last_rl_metrics(artifact).get("adjacent_cosine", 0.0)  # absent where no span was opened
    return [f"a latent and the next one have a cosine of {alike:.3f}"] if alike > MAX_ADJACENT_COSINE else []


def unmixed_ratio(artifact: Artifact) -> dict[str, float]:
    """The share of places in rollout batches for which no mixed group was found, over the whole run."""
    return {name: fmean(shares) for name, shares in _series(artifact, "groups/unmixed_ratio").items()}


@checkpoint_check(
    "Dynamic sampling found groups with correct and incorrect answers for most places of the rollout batches.",
    "choose harder rows, or fewer steps",
    unmixed_ratio,
    severity=dg.AssetCheckSeverity.WARN,
)
def groups_were_mixed(artifact: Artifact) -> list[str]:
    share = unmixed_ratio(artifact).get("groups/unmixed_ratio", 0.0)
    problem = f"{share:.0%} of the groups were all correct or all incorrect"
    return [problem] if share > MAX_UNMIXED_RATIO else []


def _series(artifact: Artifact, *names: str) -> Mapping[str, list[float]]:
    """The values of metrics over the training, of those that it reported."""
    metrics = read_metrics(artifact.path)
    series = {name: [line[name] for line in metrics if name in line] for name in names}
    return {name: values for name, values in series.items() if values}


def _tenth(values: Sequence[float]) -> int:
    return -(-len(values) // 10)
