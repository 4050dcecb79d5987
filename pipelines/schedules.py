"""Schedules: only what a person would otherwise do by the calendar. Off until somebody turns them on."""

import dagster as dg

from pipelines.jobs import RECURATE


def build_schedules() -> list[dg.ScheduleDefinition]:
    """Re-curate weekly from whatever was scored since."""
    return [
        dg.ScheduleDefinition(
            name="recurate_weekly",
            job_name=RECURATE.job,
            cron_schedule="0 4 * * 1",
            description="Select Future-L1-50K again each Monday at four, from every shard that is scored by then.",
        )
    ]
