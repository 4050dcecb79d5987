"""Schedules: only what a person would otherwise do by the calendar. Off until somebody turns them on."""

import dagster as dg

from assets.framework.partitions import SHARDS
from assets.framework.store import AssetStore
from assets.trajectories.settings import SourceSettings
from pipelines.jobs import RECURATE
from pipelines.recuration import look


def build_schedules(source: SourceSettings) -> list[dg.ScheduleDefinition]:
    """Re-curate weekly: new and changed shards are answered and judged, and everything is selected again."""

    @dg.schedule(
        name="recurate_weekly",
        job_name=RECURATE,
        cron_schedule="0 4 * * 1",
        description="Each Monday at four: curate new and changed shards, and select Future-L1-50K again from all.",
    )
    def recurate_weekly(
        context: dg.ScheduleEvaluationContext, store: dg.ResourceParam[AssetStore]
    ) -> list[dg.RunRequest] | dg.SkipReason:
        instance, week = context.instance, context.scheduled_execution_time.date().isoformat()
        try:
            changes = look(instance, store, source, once_per=week)
        except ValueError as error:
            return dg.SkipReason(str(error))
        for name in changes.gone:
            instance.delete_dynamic_partition(str(SHARDS.name), name)
        instance.add_dynamic_partitions(str(SHARDS.name), changes.fresh)
        return changes.requests or dg.SkipReason(f"no new or changed shard in {source.trajectories}")

    return [recurate_weekly]
