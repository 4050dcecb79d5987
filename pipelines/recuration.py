"""Curating again from new and changed shards: the sensor `new_shards` and the schedule `recurate_weekly`.

Both are off until somebody turns them on.
"""

import dagster as dg

from assets.curation.scored import GAIN
from assets.framework.partitions import SHARDS, SHARDS_PER_RUN, range_tags, ranges
from assets.framework.store import AssetStore
from assets.trajectories.assets import TRAJECTORIES, follow_source
from assets.trajectories.settings import SourceSettings
from assets.trajectories.sources import source_shards
from pipelines.jobs import RECURATE
from training.storage.hashing import digest

MIN_POLL_INTERVAL = 300
"""Seconds between two listings of the source by the sensor."""
Store = dg.ResourceParam[AssetStore]
Requests = list[dg.RunRequest] | dg.SkipReason


def new_shards(source: SourceSettings) -> dg.SensorDefinition:
    """The sensor that follows the source's shards with partitions and runs."""

    @dg.sensor(
        name="new_shards",
        job_name=RECURATE,
        minimum_interval_seconds=MIN_POLL_INTERVAL,
        description="Registers shards that appeared in the source, and curates again from new and changed ones.",
    )
    def sensor(context: dg.SensorEvaluationContext, store: Store) -> Requests:
        return source_requests(context.instance, store, source)

    return sensor


def recurate_weekly(source: SourceSettings) -> dg.ScheduleDefinition:
    """The schedule that curates new and changed shards and selects again."""

    @dg.schedule(
        name="recurate_weekly",
        job_name=RECURATE,
        cron_schedule="0 4 * * 1",
        description="Each Monday at four: curate new and changed shards, and select Future-L1-50K again from all.",
    )
    def schedule(context: dg.ScheduleEvaluationContext, store: Store) -> Requests:
        week = context.scheduled_execution_time.date().isoformat()
        return source_requests(context.instance, store, source, once_per=week)

    return schedule


def source_requests(
    instance: dg.DagsterInstance, store: AssetStore, settings: SourceSettings, once_per: str = ""
) -> Requests:
    """A run for each range of neighbouring stale shards, once the partitions are the source's; or why there is none.

    A run's key is made of the shards' stamps, so the same files are one run, and of `once_per`, the period after which
    a failed run is requested again.
    """
    try:
        _, _, shards = source_shards(settings, store.scratch)
    except ValueError as error:  # it is empty
        return dg.SkipReason(str(error))
    follow_source(instance, store, list(shards))
    stale = {name for name, shard in shards.items() if _is_stale(store, name, shard.stamp)}
    requests = []
    for names in ranges(instance.get_dynamic_partitions(str(SHARDS.name)), stale, SHARDS_PER_RUN):
        key = digest({"once_per": once_per, **{name: shards[name].stamp for name in names}})
        partition = names[0] if len(names) == 1 else None
        requests.append(dg.RunRequest(run_key=key, partition_key=partition, tags=range_tags(names)))
    return requests or dg.SkipReason(f"no new or changed shard in {settings.trajectories}")


def _is_stale(store: AssetStore, shard: str, stamp: str) -> bool:
    """Whether the shard was never scored, or was pulled from another file."""
    return not store.has(GAIN, shard) or store.current(TRAJECTORIES, shard).provenance["counts"]["stamp"] != stamp
