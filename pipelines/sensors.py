"""Sensors: what should follow from something that happened outside. Off until somebody turns them on."""

import dagster as dg

from assets.partitions import SHARDS
from assets.settings import SourceSettings
from assets.store import AssetStore
from pipelines.jobs import RECURATE
from pipelines.recuration import run_requests

SECONDS_BETWEEN_LOOKS = 300


def build_sensors(source: SourceSettings) -> list[dg.SensorDefinition]:
    """A new or changed shard in the source is curated; a new one becomes a partition first."""

    @dg.sensor(
        name="new_shards",
        job_name=RECURATE,
        minimum_interval_seconds=SECONDS_BETWEEN_LOOKS,
        description="Registers shards that appeared in the source, and curates again from new and changed ones.",
    )
    def new_shards(
        context: dg.SensorEvaluationContext, store: dg.ResourceParam[AssetStore]
    ) -> dg.SensorResult | dg.SkipReason:
        try:
            fresh, requests = run_requests(context.instance, store, source)
        except dg.Failure as error:
            return dg.SkipReason(error.description)
        if not requests:
            return dg.SkipReason(f"no new or changed shard in {source.trajectories}")
        added = [SHARDS.build_add_request(fresh)] if fresh else []
        return dg.SensorResult(run_requests=requests, dynamic_partitions_requests=added)

    return [new_shards]
