"""Schedules: only what a person would otherwise do by the calendar. Off until somebody turns them on."""

import dagster as dg

from assets.partitions import SHARDS
from assets.settings import SourceSettings
from assets.store import AssetStore
from pipelines.jobs import RECURATE
from pipelines.recuration import run_requests


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
        try:
            week = context.scheduled_execution_time.date().isoformat()
            fresh, requests = run_requests(context.instance, store, source, once_per=week)
        except dg.Failure as error:
            return dg.SkipReason(error.description)
        context.instance.add_dynamic_partitions(str(SHARDS.name), fresh)
        if not requests:
            return dg.SkipReason(f"no new or changed shard in {source.trajectories}")
        return requests

    return [recurate_weekly]
