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
from dagster._core.storage.tags import SENSOR_NAME_TAG

from assets.benchmarks.comparison import PARTS
from assets.framework.metadata import COMPARISON
from assets.framework.partitions import PARTITION, ranges
from assets.framework.store import AssetStore, StoreParam, name_of
from assets.lineage.trace import Lineage
from evaluation.reports.edges import asset_of
from pipelines.instance import QUEUED, UNFINISHED
from pipelines.jobs import SELECT, Step, plan, prepare
from pipelines.profile import Profile
from pipelines.sensors import NEW_SHARDS, Requests, request, upcoming_shards
from training.storage.hashing import digest

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

RETRAIN = "retrain"
MADE_FROM = "future-l1/made_from"
"""The tag of a run with a hash of all that was made before it."""
MIN_INTERVAL = 30
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
    """The runs of the first stage that has outdated partitions; or why there are none.

    What a run that ended was requested for is requested again when something that was made before it changes.  (With
    Dagster's run keys, sets that are current once more, as after a selection with other settings, would train nothing.)
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
        made_from = {MADE_FROM: digest({name: artifact.version for name, artifact in upstream.items()})}
        wanted = [request(None, n, stage.job, made_from) for step in of_stage for n in _outdated(step, lineage)]
        ended = [_ended_run(instance, one) for one in wanted]
        if requests := [one for one, run in zip(wanted, ended, strict=True) if run is None]:
            return requests
        if runs := [f"{run.run_id[:8]} ({run.status.value})" for run in ended if run is not None]:
            return dg.SkipReason(
                f"{stage.job} ended, and nothing that it is made from has changed since; materialise it by hand after "
                f"a look at run {', '.join(runs)}"
            )
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


def _ended_run(instance: dg.DagsterInstance, request: dg.RunRequest) -> dg.DagsterRun | None:
    """The sensor's last run of the request's job and partitions, if all that was made before it is as it was."""
    partition = {PARTITION: request.partition_key} if request.partition_key else {}
    tags = {SENSOR_NAME_TAG: RETRAIN, **request.tags, **partition}
    tags.pop(MADE_FROM)
    for run in instance.get_runs(dg.RunsFilter(job_name=request.job_name, tags=tags), limit=1):
        return run if run.tags.get(MADE_FROM) == request.tags[MADE_FROM] else None
    return None


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
