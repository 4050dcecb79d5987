"""Checks of answers and reports, before their numbers are used."""

from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from assets.benchmarks.assets import ITEM_TABLE, REPORT, BenchmarkRun
from assets.benchmarks.latent_retrieval import LATENT_RETRIEVAL
from assets.benchmarks.necessity import NECESSITY
from assets.framework.define import check_result
from assets.framework.metadata import COMPARISON
from assets.framework.partitions import Checkpoints, key_of
from assets.framework.store import AssetStore, read_json
from evaluation.latents.retrieval_report import MEAN_FILE
from training.storage.parquet import read_parquet

UNREADABLE_LIMIT = 0.01


def benchmark_checks(runs: list[BenchmarkRun], checkpoints: Checkpoints) -> list[dg.AssetChecksDefinition]:
    return [
        *(_items_are_usable(run.items_key) for run in runs),
        *(_every_item_is_answered(run.answers_key, run.items_key, checkpoints) for run in runs),
        *(
            (_every_answer_is_judged if run.benchmark.judged else _splits_add_up)(run.report_key, checkpoints)
            for run in runs
        ),
        _mean_can_be_fed(checkpoints),
        _latents_matter(checkpoints),
        _rl_is_not_worse(checkpoints),
    ]


def _items_are_usable(key: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=key_of(key),
        name="items_are_usable",
        blocking=True,
        description="Nearly every item of the benchmark has its question, its reference and its frames.",
    )
    def items_are_usable(store: dg.ResourceParam[AssetStore]) -> dg.AssetCheckResult:
        items = store.current(key)
        counts = items.provenance["counts"]
        share = counts["unusable"] / max(1, counts["items"])
        reasons = ", ".join(f"{count} x {problem}" for problem, count in counts["problems"].items())
        return check_result(
            passed=counts["items"] > 0 and share <= UNREADABLE_LIMIT,
            description=f"{counts['unusable']} of {counts['items']} items are unusable"
            f"{f' ({reasons})' if reasons else ''}; at most {UNREADABLE_LIMIT:.0%} may be. Each has its problem in "
            f"{items.file(ITEM_TABLE)}",
            remedy="complete the benchmark's folder, or repair its rows",
            metadata={"items": counts["items"], "share": share, "problems": counts["problems"]},
        )

    return items_are_usable


def _every_item_is_answered(key: str, items: str, checkpoints: Checkpoints) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=key_of(key),
        name="every_item_is_answered",
        partitions_def=checkpoints.model_partitions,
        blocking=True,
        description="Each usable item has exactly one answer of the model.",
    )
    def every_item_is_answered(
        context: dg.AssetCheckExecutionContext, store: dg.ResourceParam[AssetStore]
    ) -> dg.AssetCheckResult:
        table = read_parquet(store.current(items).file(ITEM_TABLE))
        usable = set(table.filter(pl.col("problem").is_null())["id"])
        missing = {}
        for model in context.partition_keys:
            answered = read_parquet(store.current(key, model).file("answers.parquet"))["prompt_id"]
            missing[model] = len(usable.symmetric_difference(answered)) + len(answered) - answered.n_unique()
        return check_result(
            passed=not any(missing.values()),
            description=f"missing or repeated answers to {len(usable)} items, by model: {missing}; the reasons are in "
            "answers.failed beside each model's answers",
            remedy="repair the clips or the server, and materialise the answers again",
            metadata={"items": len(usable), "missing_or_repeated": missing},
        )

    return every_item_is_answered


def _splits_add_up(key: str, checkpoints: Checkpoints) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=key_of(key),
        name="splits_add_up",
        partitions_def=checkpoints.model_partitions,
        description="The average is the micro average of the splits, and every answered item is in a split.",
    )
    def splits_add_up(
        context: dg.AssetCheckExecutionContext, store: dg.ResourceParam[AssetStore]
    ) -> dg.AssetCheckResult:
        wrong = []
        for model in context.partition_keys:
            report = read_json(store.current(key, model).file(REPORT))
            for count in ("correct", "n"):
                if sum(split[count] for split in report["splits"].values()) != report["average"][count]:
                    wrong.append(f"{model}: {count}")
        return check_result(
            passed=not wrong,
            description=f"sums that differ between the splits and the average: {', '.join(wrong) or 'none'}",
            remedy="the report has a defect: publish none of its numbers",
            metadata={"wrong": ", ".join(wrong) or "none"},
        )

    return splits_add_up


def _every_answer_is_judged(key: str, checkpoints: Checkpoints) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=key_of(key),
        name="every_answer_is_judged",
        partitions_def=checkpoints.model_partitions,
        description="The judge gave marks to every answered item: the means are of the whole benchmark.",
    )
    def every_answer_is_judged(
        context: dg.AssetCheckExecutionContext, store: dg.ResourceParam[AssetStore]
    ) -> dg.AssetCheckResult:
        coverage = {
            model: read_json(store.current(key, model).file(REPORT))["coverage"] for model in context.partition_keys
        }
        judged = {model: f"{one['judged']} of {one['answered']}" for model, one in coverage.items()}
        return check_result(
            passed=all(one["judged"] == one["answered"] for one in coverage.values()),
            description=f"answers that the judge marked, by model: {judged}",
            remedy="materialise the report again when the judge replies",
            metadata={"coverage": coverage},
        )

    return every_answer_is_judged


def _mean_can_be_fed(checkpoints: Checkpoints) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=key_of(LATENT_RETRIEVAL),
        partitions_def=checkpoints.model_partitions,
        blocking=True,
        description="The mean feature that the intervention `mean` feeds exists, and its numbers are finite.",
    )
    def mean_can_be_fed(
        context: dg.AssetCheckExecutionContext, store: dg.ResourceParam[AssetStore]
    ) -> dg.AssetCheckResult:
        from safetensors.numpy import load_file

        means = {
            model: load_file(store.current(LATENT_RETRIEVAL, model).file(MEAN_FILE)) for model in context.partition_keys
        }
        finite = {
            model: bool(tensors) and all(bool(np.isfinite(one).all()) for one in tensors.values())
            for model, tensors in means.items()
        }
        return check_result(
            passed=all(finite.values()),
            description=f"whether {MEAN_FILE} holds finite numbers, by model: {finite}",
            remedy="inspect the checkpoint with future-l1 inspect --verify, and train it again",
            metadata={"finite": finite},
        )

    return mean_can_be_fed


def _latents_matter(checkpoints: Checkpoints) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=key_of(NECESSITY),
        partitions_def=checkpoints.model_partitions,
        description="Replacing the latents costs accuracy: a warning, since a model without that is a finding too.",
    )
    def latents_matter(
        context: dg.AssetCheckExecutionContext, store: dg.ResourceParam[AssetStore]
    ) -> dg.AssetCheckResult:
        reports: dict[str, Any] = {
            model: read_json(store.current(NECESSITY, model).file(REPORT)) for model in context.partition_keys
        }
        costs = {
            model: all(row["difference"]["interval"][1] < 0 for row in report["interventions"].values())
            for model, report in reports.items()
        }
        return check_result(
            passed=all(costs.values()),
            severity=dg.AssetCheckSeverity.WARN,
            description="; ".join(f"{model}: {report['verdict']}" for model, report in reports.items()),
            remedy="claim nothing about the latents of this model, or train it with latents that matter",
            metadata={model: report["verdict"] for model, report in reports.items()},
        )

    return latents_matter


def _rl_is_not_worse(checkpoints: Checkpoints) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=key_of(COMPARISON),
        description="On FutureBench no RL model is worse than the SFT model that it was trained from (95 %, paired).",
    )
    def rl_is_not_worse_than_its_sft(store: dg.ResourceParam[AssetStore]) -> dg.AssetCheckResult:
        rows = read_json(store.current(COMPARISON).file(REPORT))["paired"]
        changes = {row["after"]: row for row in rows if checkpoints.rl.get(row["after"]) == row["before"]}
        texts = {model: f"{row['difference']:+.1%} on {row['n']} items" for model, row in changes.items()}
        return check_result(
            passed=all(row["interval"][1] >= 0 for row in changes.values()),
            severity=dg.AssetCheckSeverity.WARN,
            description=f"change of accuracy by RL: {texts or 'no RL model'}",
            remedy="compare the reward curves, and train with a lower learning_rate or a higher latent_anchor_coef",
            metadata=texts,
        )

    return rl_is_not_worse_than_its_sft
