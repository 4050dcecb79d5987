"""The sensor `new_shards` and the schedule `recurate_weekly`: they curate again from new and changed shards.

Both are off until somebody turns them on.
"""

from collections.abc import Sequence

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorStatus, InstigatorType

from assets.checkpoints.current_sets import trained_on_current_sets
from assets.curation.assets import CURATED
from assets.curation.scored import GAIN
from assets.framework.partitions import SHARDS, SHARDS_PER_RUN, partitions_of, ranges
from assets.framework.store import AssetStore, StoreParam
from assets.trajectories.assets import TRAJECTORIES, follow_source
from assets.trajectories.settings import SourceSettings
from assets.trajectories.sources import source_shards
from evaluation.reports.edges import asset_of
from pipelines.instance import QUEUED, UNFINISHED
from pipelines.jobs import RECURATE, SELECT
from pipelines.run_requests import MADE_FROM, Requests, not_ended, run_request, work_in_progress

NEW_SHARDS = "new_shards"
MIN_POLL_INTERVAL = 300
"""Seconds between two listings of the source by the sensor."""


def new_shards(source: SourceSettings, checks: Sequence[dg.AssetChecksDefinition]) -> dg.SensorDefinition:
    """The sensor that follows the source's shards with partitions and runs.

    checks: of them, those of the sets and of what is trained on them are executed after a selection.
    """
    of_selection = _after_selection(checks)

    @dg.sensor(
        name=NEW_SHARDS,
        job_name=RECURATE,
        minimum_interval_seconds=MIN_POLL_INTERVAL,
        description="Registers shards that appeared in the source, and curates again from new and changed ones.",
    )
    def sensor(context: dg.SensorEvaluationContext, store: StoreParam) -> Requests:
        return _sensor_requests(context.instance, store, source, of_selection)

    return sensor


def recurate_weekly(source: SourceSettings, checks: Sequence[dg.AssetChecksDefinition]) -> dg.ScheduleDefinition:
    """The schedule that curates new and changed shards and selects again, also what failed in the week before.

    checks: as of `new_shards`.
    """
    of_selection = _after_selection(checks)

    @dg.schedule(
        name="recurate_weekly",
        job_name=RECURATE,
        cron_schedule="0 4 * * 1",
        description="Each Monday at four: curate new and changed shards, and select Future-L1-50K again from all.",
    )
    def schedule(context: dg.ScheduleEvaluationContext, store: StoreParam) -> Requests:
        requests = source_requests(context.instance, store, source, of_selection)
        if isinstance(requests, dg.SkipReason):
            return requests
        return [one.with_replaced_attrs(run_key=one.tags[MADE_FROM]) for one in requests]  # a tick wants them named

    return schedule


def source_requests(
    instance: dg.DagsterInstance,
    store: AssetStore,
    settings: SourceSettings,
    checks: Sequence[dg.AssetCheckKey],
) -> Requests:
    """A run for each range of neighbouring stale shards, once the partitions are the source's; or why there is none.

    Where no shard is stale and nothing runs, but the selection is not of the current shards, as when one has left: the
    selection alone, with `checks`.  Shards of a run that has not ended are left to it: the schedule and the sensor may
    both be on.
    """
    try:
        _, _, shards = source_shards(settings, store.scratch)
    except ValueError as error:  # it is empty
        return dg.SkipReason(str(error))
    follow_source(instance, store, list(shards))
    partitions = instance.get_dynamic_partitions(str(SHARDS.name))
    runs = instance.get_runs(dg.RunsFilter(job_name=RECURATE, statuses=[*UNFINISHED, *QUEUED]))
    in_work = {name for run in runs for name in partitions_of(run.tags, partitions)}
    stale = {name for name, shard in shards.items() if name not in in_work and _is_stale(store, name, shard.stamp)}
    if stale:
        several = ranges(partitions, stale, SHARDS_PER_RUN)
        return [run_request(RECURATE, names, {name: shards[name].stamp for name in names}) for names in several]
    scored = {name: artifact.version for name, artifact in store.current_artifacts(GAIN).items()}
    if scored != _selected(store) and not work_in_progress(instance):
        return [run_request(RECURATE, (), scored, SELECT.assets, checks)]
    unfinished = f" besides the {len(in_work)} that are curated now" if in_work else ""
    return dg.SkipReason(f"no new or changed shard in {settings.trajectories}{unfinished}")


def upcoming_shards(instance: dg.DagsterInstance, store: AssetStore, settings: SourceSettings) -> bool:
    """Whether `new_shards` is on and will request runs at its next tick."""
    on = instance.all_instigator_state(
        instigator_type=InstigatorType.SENSOR, instigator_statuses={InstigatorStatus.RUNNING}
    )
    if all(state.instigator_name != NEW_SHARDS for state in on):
        return False
    return isinstance(_sensor_requests(instance, store, settings), list)


def _sensor_requests(
    instance: dg.DagsterInstance,
    store: AssetStore,
    settings: SourceSettings,
    checks: Sequence[dg.AssetCheckKey] = (),
) -> Requests:
    """`source_requests` without those that a run has ended for."""
    requests = source_requests(instance, store, settings, checks)
    return requests if isinstance(requests, dg.SkipReason) else not_ended(instance, requests)


def _after_selection(checks: Sequence[dg.AssetChecksDefinition]) -> list[dg.AssetCheckKey]:
    """The checks of the sets and of what is trained on them."""
    keys = [key for one in checks for key in one.check_keys]
    return [key for key in keys if key.asset_key.to_user_string() in SELECT.assets
            or key.name == trained_on_current_sets.name]  # fmt: skip


def _selected(store: AssetStore) -> dict[str, str]:
    """The versions of the scored shards that the current selection is made from, by name."""
    inputs = store.current(CURATED).provenance["inputs"] if store.has(CURATED) else {}
    return {name: version for name, version in inputs.items() if asset_of(name) == GAIN}


def _is_stale(store: AssetStore, shard: str, stamp: str) -> bool:
    """Whether the shard was never scored, or was pulled from another file."""
    return not store.has(GAIN, shard) or store.current(TRAJECTORIES, shard).provenance["counts"]["stamp"] != stamp
