"""The runs that sensors request: each for a purpose, once.

What a run that ended was requested for is requested again when something that it was made from changes.  (Dagster makes
one run for a run key, ever: a file that becomes what it was, or sets as after a selection with other settings, would be
new no more.)
"""

from collections.abc import Mapping, Sequence

import dagster as dg
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus

from assets.framework.partitions import PARTITION, key_of, range_tags
from pipelines.instance import QUEUED, UNFINISHED
from training.storage.hashing import digest

Requests = list[dg.RunRequest] | dg.SkipReason
MADE_FROM = "future-l1/made_from"
"""The tag of a run with a hash of what it is made from."""
AUTOMATIC = {"future-l1/automatic": "true"}
"""The tag of the runs that are requested here, whichever sensor or schedule requests them."""


def run_request(
    job: str,
    partitions: Sequence[str],
    made_from: Mapping[str, str],
    assets: Sequence[str] = (),
    checks: Sequence[dg.AssetCheckKey] = (),
) -> dg.RunRequest:
    """The request of a run over neighbouring partitions, none for assets without partitions.

    made_from: versions by name.  assets, checks: those of the job that are executed; all if none are named.
    """
    return dg.RunRequest(
        job_name=job,
        partition_key=partitions[0] if len(partitions) == 1 else None,
        tags={**range_tags(partitions), **AUTOMATIC, MADE_FROM: digest(dict(made_from))},
        asset_selection=[key_of(key) for key in assets] or None,
        asset_check_keys=list(checks) or None,
    )


def not_ended(instance: dg.DagsterInstance, requests: Sequence[dg.RunRequest]) -> Requests:
    """The requests but those whose last run has ended, and was made from the same; if all have, the reason to skip."""
    ended = [_last_run(instance, request) for request in requests]
    if remaining := [request for request, run in zip(requests, ended, strict=True) if run is None]:
        return remaining
    runs = ", ".join(f"{run.run_id[:8]} ({run.status.value})" for run in ended if run is not None)
    return dg.SkipReason(
        f"{requests[0].job_name} ended, and nothing that it is made from has changed since; materialise it by hand "
        f"after a look at run {runs}"
    )


def work_in_progress(instance: dg.DagsterInstance) -> str | None:
    """The first run or backfill that has not ended: what it makes may be what is outdated, or what that is made of."""
    for run in instance.get_runs(dg.RunsFilter(statuses=[*UNFINISHED, *QUEUED]), limit=1):
        return f"run {run.run_id[:8]} of {run.job_name}"
    for backfill in instance.get_backfills(BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED]), limit=1):
        return f"backfill {backfill.backfill_id}"
    return None


def _last_run(instance: dg.DagsterInstance, request: dg.RunRequest) -> dg.DagsterRun | None:
    """The last run of the request's job and partitions that was requested here, if all that it is made from is as it
    was."""
    partition = {PARTITION: request.partition_key} if request.partition_key else {}
    tags = {**request.tags, **partition}
    made_from = tags.pop(MADE_FROM)
    for run in instance.get_runs(dg.RunsFilter(job_name=request.job_name, tags=tags), limit=1):
        return run if run.tags.get(MADE_FROM) == made_from else None
    return None
