"""Sensors: what should follow from something that happened outside. Off until somebody turns them on."""

import dagster as dg

from assets.partitions import SHARDS
from assets.settings import SourceSettings
from pipelines.jobs import INGEST

SECONDS_BETWEEN_LOOKS = 300


def build_sensors(source: SourceSettings) -> list[dg.SensorDefinition]:
    """A new shard in the source's folder becomes a partition, and is ingested."""

    @dg.sensor(
        name="new_shards",
        job_name=INGEST.job,
        minimum_interval_seconds=SECONDS_BETWEEN_LOOKS,
        description="Registers shards that appeared in the source's folder, and ingests each of them.",
    )
    def new_shards(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        if not source.trajectories.is_dir():
            return dg.SkipReason(f"there is no folder {source.trajectories}")
        known = set(context.instance.get_dynamic_partitions(str(SHARDS.name)))
        fresh = sorted({path.stem for path in source.trajectories.glob("*.parquet")} - known)
        if not fresh:
            return dg.SkipReason(f"no new shard in {source.trajectories}; {len(known)} are known")
        return dg.SensorResult(
            run_requests=[dg.RunRequest(run_key=shard, partition_key=shard) for shard in fresh],
            dynamic_partitions_requests=[SHARDS.build_add_request(fresh)],
        )

    return [new_shards]
