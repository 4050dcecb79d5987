"""Checks of answers and reports, before their numbers are used."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from assets.benchmarks.assets import ANSWER_TABLE, ITEM_TABLE, REPORT, BenchmarkRun
from assets.benchmarks.latents import LATENT_RETRIEVAL
from assets.benchmarks.necessity import NECESSITY
from assets.checkpoints.current_sets import current_sets_check
from assets.framework.define import CheckOutcome, check
from assets.framework.display import line
from assets.framework.metadata import COMPARISON
from assets.framework.partitions import Checkpoints
from assets.framework.store import AssetStore
from evaluation.latents.necessity import REPLACEMENTS
from evaluation.latents.retrieval_report import MEAN_FILE
from training.storage.files import read_json
from training.storage.parquet import read_parquet

UNREADABLE_LIMIT = 0.01


def benchmark_checks(
    runs: list[BenchmarkRun], checkpoints: Checkpoints, examined: tuple[str, ...]
) -> list[dg.AssetChecksDefinition]:
    """`examined`: the models with reports on their latents."""
    models, latents = checkpoints.model_partitions, checkpoints.model_partitioning(examined).definition
    return [
        *(items_are_usable.of(run.items_key) for run in runs),
        *(every_item_is_answered.of(run.answers_key, models, items_key=run.items_key) for run in runs),
        *(
            (every_answer_is_judged if run.benchmark.judged else splits_add_up).of(run.report_key, models)
            for run in runs
        ),
        mean_can_be_fed.of(LATENT_RETRIEVAL, latents),
        latents_matter.of(NECESSITY, latents),
        rl_is_not_worse_than_its_sft.of(COMPARISON, starts=checkpoints.rl),
        current_sets_check(COMPARISON, checkpoints),
    ]


@check(
    "Nearly every item of the benchmark has its question, its reference and its frames.",
    "complete the benchmark's folder, or repair its rows",
    blocking=True,
)
def items_are_usable(store: AssetStore, key: str) -> CheckOutcome:
    items = store.current(key)
    counts = items.provenance["counts"]
    share = counts["unusable"] / max(1, counts["items"])
    reasons = ", ".join(f"{count} x {problem}" for problem, count in counts["problems"].items())
    return CheckOutcome(
        passed=counts["items"] > 0 and share <= UNREADABLE_LIMIT,
        description=f"{counts['unusable']} of {counts['items']} items are unusable"
        f"{f' ({reasons})' if reasons else ''}; at most {UNREADABLE_LIMIT:.0%} may be. Each has its problem in "
        f"{items.file(ITEM_TABLE)}",
        metadata={"items": counts["items"], "share": share, "problems": counts["problems"]},
    )


@check(
    "Each usable item has exactly one answer of the model.",
    "repair the clips or the server, and materialise the answers again",
    blocking=True,
)
def every_item_is_answered(store: AssetStore, key: str, models: Sequence[str], items_key: str) -> CheckOutcome:
    items = read_parquet(store.current(items_key).file(ITEM_TABLE))
    usable = set(items.filter(pl.col("problem").is_null())["id"])
    missing = {}
    for model in models:
        answered = read_parquet(store.current(key, model).file(ANSWER_TABLE), columns=["prompt_id"])["prompt_id"]
        missing[model] = len(usable.symmetric_difference(answered)) + len(answered) - answered.n_unique()
    return CheckOutcome(
        passed=not any(missing.values()),
        description=f"missing or repeated answers to {len(usable)} items: {line(missing)}; the reasons are in "
        "answers.failed beside each model's answers",
        metadata={"items": len(usable), "missing_or_repeated": missing},
    )


@check(
    "The average is the micro average of the splits, and every answered item is in a split.",
    "the report has a defect: publish none of its numbers",
)
def splits_add_up(store: AssetStore, key: str, models: Sequence[str]) -> CheckOutcome:
    wrong = ", ".join(
        f"{model}: {count}"
        for model, report in _reports(store, key, models).items()
        for count in ("correct", "n")
        if sum(split[count] for split in report["splits"].values()) != report["average"][count]
    )
    return CheckOutcome(
        passed=not wrong,
        description=f"sums that differ between the splits and the average: {wrong or 'none'}",
        metadata={},
    )


@check(
    "The judge gave marks to every answered item: the means are of the whole benchmark.",
    "materialise the report again when the judge replies",
)
def every_answer_is_judged(store: AssetStore, key: str, models: Sequence[str]) -> CheckOutcome:
    coverage = {model: report["coverage"] for model, report in _reports(store, key, models).items()}
    judged = {model: f"{one['judged']} of {one['answered']}" for model, one in coverage.items()}
    return CheckOutcome(
        passed=all(one["judged"] == one["answered"] for one in coverage.values()),
        description=f"answers that the judge marked: {line(judged)}",
        metadata={"coverage": coverage},
    )


@check(
    "The mean feature that the intervention `mean` feeds exists, and its numbers are finite.",
    "inspect the checkpoint with future-l1 inspect --verify, and train it again",
    blocking=True,
)
def mean_can_be_fed(store: AssetStore, key: str, models: Sequence[str]) -> CheckOutcome:
    from safetensors.numpy import load_file

    means = {model: load_file(store.current(key, model).file(MEAN_FILE)) for model in models}
    finite = {
        model: bool(tensors) and all(bool(np.isfinite(one).all()) for one in tensors.values())
        for model, tensors in means.items()
    }
    return CheckOutcome(
        passed=all(finite.values()),
        description=f"whether {MEAN_FILE} holds finite numbers: {line(finite)}",
        metadata={"finite": finite},
    )


@check(
    "Replacing the latents costs accuracy: a warning, since a model without that is a finding too.",
    "claim nothing about the latents of this model, or train it with latents that matter",
    severity=dg.AssetCheckSeverity.WARN,
)
def latents_matter(store: AssetStore, key: str, models: Sequence[str]) -> CheckOutcome:
    reports = _reports(store, key, models)
    replaced = [row for report in reports.values() for name, row in report["interventions"].items()
                if name in REPLACEMENTS]  # fmt: skip
    return CheckOutcome(
        passed=all(row["difference"]["interval"][1] < 0 for row in replaced),
        description="; ".join(f"{model}: {report['verdict']}" for model, report in reports.items()),
        metadata={model: report["verdict"] for model, report in reports.items()},
    )


@check(
    "On FutureBench no RL model is worse than the SFT model that it was trained from (95 %, paired).",
    "compare the reward curves, and train with a lower learning_rate or a higher latent_anchor_coef",
    severity=dg.AssetCheckSeverity.WARN,
)
def rl_is_not_worse_than_its_sft(store: AssetStore, key: str, starts: Mapping[str, str]) -> CheckOutcome:
    rows = read_json(store.current(key).file(REPORT))["paired"]
    changes = {row["after"]: row for row in rows if starts.get(row["after"]) == row["before"]}
    texts = {model: f"{row['difference']:+.1%} on {row['n']} items" for model, row in changes.items()}
    return CheckOutcome(
        passed=all(row["interval"][1] >= 0 for row in changes.values()),
        description=f"change of accuracy by RL: {line(texts)}",
        metadata=texts,
    )


def _reports(store: AssetStore, key: str, models: Sequence[str]) -> dict[str, Any]:
    return {model: read_json(store.current(key, model).file(REPORT)) for model in models}
