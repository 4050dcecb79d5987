"""Sensors: what should follow from something that happened. Shards are looked for once somebody turns that on."""

import dagster as dg

from assets.framework.partitions import SHARDS
from assets.framework.store import AssetStore
from assets.trajectories.settings import SourceSettings
from pipelines.alerts import failed_runs
from pipelines.jobs import RECURATE
from pipelines.recuration import look

POLL_INTERVAL = 300


def build_sensors(source: SourceSettings) -> list[dg.SensorDefinition]:
    """A new or changed shard in the source is curated, its partitions follow the shards that there are; failed runs are
    told."""

    @dg.sensor(
        name="new_shards",
        job_name=RECURATE,
        minimum_interval_seconds=POLL_INTERVAL,
        description="Registers shards that appeared in the source, and curates again from new and changed ones.",
    )
    def new_shards(
        context: dg.SensorEvaluationContext, store: dg.ResourceParam[AssetStore]
    ) -> dg.SensorResult | dg.SkipReason:
        try:
            changes = look(context.instance, store, source)
        except ValueError as error:
            return dg.SkipReason(str(error))
        if not (changes.requests or changes.gone):
            return dg.SkipReason(f"no new or changed shard in {source.trajectories}")
        partitions: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = []
        if changes.gone:
            partitions.append(SHARDS.build_delete_request(changes.gone))
        if changes.fresh:
            partitions.append(SHARDS.build_add_request(changes.fresh))
        return dg.SensorResult(run_requests=changes.requests, dynamic_partitions_requests=partitions)

    return [new_shards, failed_runs()]
