"""Curating again from new and changed shards: the sensor `new_shards` and the schedule `recurate_weekly`.

Both are off until somebody turns them on.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import dagster as dg

from assets.curation.scored import GAIN
from assets.framework.partitions import SHARDS, SHARDS_PER_RUN, range_tags
from assets.framework.store import AssetStore
from assets.trajectories.assets import TRAJECTORIES, retire
from assets.trajectories.settings import SourceSettings
from assets.trajectories.sources import source_shards
from pipelines.jobs import RECURATE
from training.storage.hashing import digest

MIN_POLL_INTERVAL = 300
"""Seconds between two listings of the source by the sensor."""


class SourceChanges(NamedTuple):
    """Shards without a Dagster partition, partitions without a shard, and the runs to start."""

    added: list[str]
    removed: list[str]
    run_requests: list[dg.RunRequest]


def new_shards(source: SourceSettings) -> dg.SensorDefinition:
    """The sensor that follows the source's shards with partitions and runs."""

    @dg.sensor(
        name="new_shards",
        job_name=RECURATE,
        minimum_interval_seconds=MIN_POLL_INTERVAL,
        description="Registers shards that appeared in the source, and curates again from new and changed ones.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, store: dg.ResourceParam[AssetStore]
    ) -> dg.SensorResult | dg.SkipReason:
        try:
            changes = source_changes(context.instance, store, source)
        except ValueError as error:
            return dg.SkipReason(str(error))
        if not (changes.run_requests or changes.removed):
            return _nothing_new(source)
        partitions: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = []
        if changes.removed:
            partitions.append(SHARDS.build_delete_request(changes.removed))
        if changes.added:
            partitions.append(SHARDS.build_add_request(changes.added))
        return dg.SensorResult(run_requests=changes.run_requests, dynamic_partitions_requests=partitions)

    return sensor


def recurate_weekly(source: SourceSettings) -> dg.ScheduleDefinition:
    """The schedule that curates new and changed shards and selects again."""

    @dg.schedule(
        name="recurate_weekly",
        job_name=RECURATE,
        cron_schedule="0 4 * * 1",
        description="Each Monday at four: curate new and changed shards, and select Future-L1-50K again from all.",
    )
    def schedule(
        context: dg.ScheduleEvaluationContext, store: dg.ResourceParam[AssetStore]
    ) -> list[dg.RunRequest] | dg.SkipReason:
        instance, week = context.instance, context.scheduled_execution_time.date().isoformat()
        try:
            changes = source_changes(instance, store, source, once_per=week)
        except ValueError as error:
            return dg.SkipReason(str(error))
        for name in changes.removed:
            instance.delete_dynamic_partition(str(SHARDS.name), name)
        instance.add_dynamic_partitions(str(SHARDS.name), changes.added)
        return changes.run_requests or _nothing_new(source)

    return schedule


def source_changes(
    instance: dg.DagsterInstance, store: AssetStore, settings: SourceSettings, once_per: str = ""
) -> SourceChanges:
    """The changes of the source, with a run for each range of neighbouring stale shards.

    A run's key is made of the shards' stamps, so the same files are one run, and of `once_per`, the period after which
    a failed run is requested again.  Shards that were removed are retired.  Raises ValueError if the source is empty.
    """
    _, _, shards = source_shards(settings, store.scratch)
    partitions = list(instance.get_dynamic_partitions(str(SHARDS.name)))
    removed = [name for name in partitions if name not in shards]
    retire(store, removed)
    added = [name for name in shards if name not in partitions]
    stale = {name for name, shard in shards.items() if _is_stale(store, name, shard.stamp)}
    run_requests = []
    for names in _ranges([*(name for name in partitions if name not in removed), *added], stale):
        key = digest({"once_per": once_per, **{name: shards[name].stamp for name in names}})
        partition = names[0] if len(names) == 1 else None
        run_requests.append(dg.RunRequest(run_key=key, partition_key=partition, tags=range_tags(names)))
    return SourceChanges(added, removed, run_requests)


def _is_stale(store: AssetStore, shard: str, stamp: str) -> bool:
    """Whether the shard was never scored, or was pulled from another file."""
    return not store.has(GAIN, shard) or store.current(TRAJECTORIES, shard).provenance["counts"]["stamp"] != stamp


def _ranges(ordered: Sequence[str], wanted: set[str]) -> Iterator[list[str]]:
    """The wanted names in order, cut where others lie between them and at SHARDS_PER_RUN."""
    names: list[str] = []
    for name in ordered:
        if name in wanted:
            names.append(name)
        if names and (name not in wanted or len(names) == SHARDS_PER_RUN):
            yield names
            names = []
    if names:
        yield names


def _nothing_new(source: SourceSettings) -> dg.SkipReason:
    return dg.SkipReason(f"no new or changed shard in {source.trajectories}")
