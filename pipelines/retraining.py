"""The sensor `retrain`: trains and reports again what is not made from the current training sets, in the plan's order.

It looks at artifacts, not at events: a change from before it was turned on counts, and the same version again does not.
A stage is requested when nothing runs, all stages before it are up to date, and no blocking check of theirs failed.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus as Status

from assets.benchmarks.comparison import PARTS
from assets.framework.metadata import COMPARISON
from assets.framework.partitions import ranges
from assets.framework.store import AssetStore, StoreParam, name_of
from assets.lineage.trace import Lineage
from evaluation.reports.edges import asset_of
from pipelines.jobs import SELECT, Step, plan, prepare
from pipelines.profile import Profile
from pipelines.recuration import NEW_SHARDS, upcoming_shards
from pipelines.run_requests import Requests, not_ended, run_request, work_in_progress

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

RETRAIN = "retrain"
MIN_INTERVAL = 10
"""Seconds between two looks at the artifacts."""


def retrain(profile: Profile, jobs: "Sequence[UnresolvedAssetJobDefinition]") -> dg.SensorDefinition:
    """The sensor, which requests runs of those of the `jobs` that come after the selection in the plan."""
    steps = plan(profile)
    following = steps[next(number for number, step in enumerate(steps) if step.stage == SELECT) + 1 :]
    names = {step.stage.job for step in following}

    @dg.sensor(
        name=RETRAIN,
        jobs=[job for job in jobs if job.name in names],
        minimum_interval_seconds=MIN_INTERVAL,
        description="Trains, evaluates and compares again, stage by stage, what is not made from the current sets.",
    )
    def sensor(context: dg.SensorEvaluationContext, store: StoreParam) -> Requests:
        assert context.repository_def is not None
        checks = [node.key for node in context.repository_def.asset_graph.asset_check_nodes if node.blocking]
        made_before = (*prepare(profile).assets, *SELECT.assets)
        requests = stage_requests(context.instance, store, following, made_before, checks)
        if isinstance(requests, list) and upcoming_shards(context.instance, store, profile.source):
            return dg.SkipReason(f"waits until {NEW_SHARDS} has curated new and changed shards")
        return requests

    return sensor


def stage_requests(
    instance: dg.DagsterInstance,
    store: AssetStore,
    steps: Sequence[Step],
    made_before: Sequence[str],
    blocking: Sequence[dg.AssetCheckKey],
) -> Requests:
    """The runs of the first stage that has outdated partitions; or why there are none."""
    if work := work_in_progress(instance):
        return dg.SkipReason(f"waits for {work}")
    if missing := [key for key in made_before if not store.has(key)]:
        return dg.SkipReason(f"there is nothing to train on yet: materialise {', '.join(missing)}")
    for stage, of_stage in groupby(steps, lambda step: step.stage):
        if failed := _failed_checks(instance, [check for check in blocking if _key(check) in made_before]):
            return dg.SkipReason(f"waits until these checks pass: {', '.join(failed)}")
        upstream = store.current_artifacts(*made_before)
        lineage = Lineage(upstream | store.current_artifacts(*stage.assets))
        made_from = {name: artifact.version for name, artifact in upstream.items()}
        if requests := [run_request(stage.job, n, made_from) for step in of_stage for n in _outdated(step, lineage)]:
            return not_ended(instance, requests)
        made_before = (*made_before, *stage.assets)
    return dg.SkipReason("every model and every report is made from the current sets")


def _outdated(step: Step, lineage: Lineage) -> Iterator[Sequence[str]]:
    """The neighbouring partitions of a step that are missing or not made from current artifacts; () for the artifact of
    a step without partitions."""
    assets = step.stage.assets
    if step.partitions:
        outdated = {p for p in step.partitions for key in assets if _is_outdated(lineage, name_of(key, p))}
        yield from ranges(step.partitions, outdated)
    elif any(_is_outdated(lineage, key) for key in assets):
        yield ()


def _is_outdated(lineage: Lineage, name: str) -> bool:
    artifact = lineage.artifacts.get(name)
    if artifact is None or lineage.outdated(name):
        return True
    parts = {part for part in lineage.artifacts if asset_of(part) in PARTS}
    return name == COMPARISON and not parts <= set(artifact.provenance["inputs"])


def _failed_checks(instance: dg.DagsterInstance, checks: Sequence[dg.AssetCheckKey]) -> list[str]:
    """The checks whose last result is an error, and those that the run that made their asset did not come to."""
    failed = []
    for check in checks:
        record = instance.get_latest_asset_check_evaluation_record(check)
        if record and record.status is Status.PLANNED:
            made = instance.get_latest_materialization_event(check.asset_key)
            is_failed = made is not None and made.run_id == record.run_id
        else:
            result = record.evaluation if record and record.status is Status.FAILED else None
            is_failed = result is not None and result.severity == dg.AssetCheckSeverity.ERROR
        failed += [f"{check.name} of {_key(check)}"] if is_failed else []
    return failed


def _key(check: dg.AssetCheckKey) -> str:
    return check.asset_key.to_user_string()
