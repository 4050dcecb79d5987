"""The sensor `retrain`: trains and reports again what is not made from the current training sets, in the plan's order.

It looks at artifacts, not at events: a change from before it was turned on counts, and the same version again does not.
A stage is requested when nothing runs, all stages before it are up to date, and no blocking check of theirs failed.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus as Status

from assets.benchmarks.comparison import PARTS
from assets.framework.metadata import COMPARISON
from assets.framework.partitions import ranges
from assets.framework.store import AssetStore, StoreParam, name_of
from assets.lineage.trace import Lineage
from evaluation.reports.edges import asset_of
from pipelines.instance import QUEUED, UNFINISHED
from pipelines.jobs import SELECT, Step, plan, prepare
from pipelines.profile import Profile
from pipelines.sensors import Requests, request
from training.storage.hashing import digest

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

MIN_INTERVAL = 30
"""Seconds between two looks at the artifacts."""


def retrain(profile: Profile, jobs: "Sequence[UnresolvedAssetJobDefinition]") -> dg.SensorDefinition:
    """The sensor, which requests runs of those of the `jobs` that come after the selection in the plan."""
    steps = plan(profile)
    following = steps[next(number for number, step in enumerate(steps) if step.stage == SELECT) + 1 :]
    names = {step.stage.job for step in following}

    @dg.sensor(
        name="retrain",
        jobs=[job for job in jobs if job.name in names],
        minimum_interval_seconds=MIN_INTERVAL,
        description="Trains, evaluates and compares again, stage by stage, what is not made from the current sets.",
    )
    def sensor(context: dg.SensorEvaluationContext, store: StoreParam) -> Requests:
        assert context.repository_def is not None
        checks = [node.key for node in context.repository_def.asset_graph.asset_check_nodes if node.blocking]
        made_before = (*prepare(profile).assets, *SELECT.assets)
        return stage_requests(context.instance, store, following, made_before, checks)

    return sensor


def stage_requests(
    instance: dg.DagsterInstance,
    store: AssetStore,
    steps: Sequence[Step],
    made_before: Sequence[str],
    blocking: Sequence[dg.AssetCheckKey],
) -> Requests:
    """The runs of the first stage that has outdated partitions; or why there are none.

    A run's key is made of all that was made before it, so a failed run is requested again when some of it changes.
    """
    if work := _work_in_progress(instance):
        return dg.SkipReason(f"waits for {work}")
    if missing := [key for key in made_before if not store.has(key)]:
        return dg.SkipReason(f"there is nothing to train on yet: materialise {', '.join(missing)}")
    for stage, of_stage in groupby(steps, lambda step: step.stage):
        if failed := _failed_checks(instance, [check for check in blocking if _key(check) in made_before]):
            return dg.SkipReason(f"waits until these checks pass: {', '.join(failed)}")
        upstream = store.current_artifacts(*made_before)
        lineage = Lineage(upstream | store.current_artifacts(*stage.assets))
        versions = {name: artifact.version for name, artifact in upstream.items()}
        requests = [
            request(digest({"job": stage.job, "partitions": names, "made_from": versions}), names, stage.job)
            for step in of_stage
            for names in _outdated(step, lineage)
        ]
        if requests:
            return requests
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


def _work_in_progress(instance: dg.DagsterInstance) -> str | None:
    """The first run or backfill that has not ended: what it makes may be what is outdated, or what that is made of."""
    for run in instance.get_runs(dg.RunsFilter(statuses=[*UNFINISHED, *QUEUED]), limit=1):
        return f"run {run.run_id[:8]} of {run.job_name}"
    for backfill in instance.get_backfills(BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED]), limit=1):
        return f"backfill {backfill.backfill_id}"
    return None


def _failed_checks(instance: dg.DagsterInstance, checks: Sequence[dg.AssetCheckKey]) -> list[str]:
    """The checks whose last result is an error."""
    records = (instance.get_latest_asset_check_evaluation_record(check) for check in checks)
    failed = (record.evaluation for record in records if record and record.status is Status.FAILED)
    errors = [one for one in failed if one and one.severity == dg.AssetCheckSeverity.ERROR]
    return [f"{one.check_name} of {one.asset_key.to_user_string()}" for one in errors]


def _key(check: dg.AssetCheckKey) -> str:
    return check.asset_key.to_user_string()
