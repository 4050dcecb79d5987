"""The sensors `new_shards` and `failed_runs`, and the schedule `recurate_weekly`.

What curates again from new and changed shards is off until somebody turns it on; failed runs are posted to a webhook in
Slack's format where the environment names one.  An error's text may hold parts of rows, of model outputs and of server
replies: it is sent as plain text, escaped as Slack requires, so that it makes no links and notifies nobody
(`<!channel>`).
"""

import html
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorStatus, InstigatorType
from dagster._core.storage.tags import RUN_KEY_TAG
from dagster._utils.error import SerializableErrorInfo

from assets.curation.scored import GAIN
from assets.framework.partitions import SHARDS, SHARDS_PER_RUN, partitions_of, range_tags, ranges
from assets.framework.store import AssetStore, StoreParam
from assets.trajectories.assets import TRAJECTORIES, follow_source
from assets.trajectories.settings import SourceSettings
from assets.trajectories.sources import source_shards
from pipelines.instance import QUEUED, UNFINISHED
from pipelines.jobs import RECURATE
from training.storage.hashing import digest

NEW_SHARDS = "new_shards"
MIN_POLL_INTERVAL = 300
"""Seconds between two listings of the source by the sensor."""
Requests = list[dg.RunRequest] | dg.SkipReason
WEBHOOK_VARIABLE = "FUTURE_L1_WEBHOOK"
"""The environment variable with the webhook's address, which is a secret and stands nowhere else."""
UI_VARIABLE = "FUTURE_L1_UI"
"""The environment variable with the UI's address, for the link to the run."""
MAX_ERROR_CHARS = 1500
TIMEOUT = 10.0
RETRY_DELAYS = (0.0, 1.0, 4.0)
"""Seconds before each attempt; we retry here, since Dagster gives a run to the sensor once."""


def new_shards(source: SourceSettings) -> dg.SensorDefinition:
    """The sensor that follows the source's shards with partitions and runs."""

    @dg.sensor(
        name=NEW_SHARDS,
        job_name=RECURATE,
        minimum_interval_seconds=MIN_POLL_INTERVAL,
        description="Registers shards that appeared in the source, and curates again from new and changed ones.",
    )
    def sensor(context: dg.SensorEvaluationContext, store: StoreParam) -> Requests:
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
    def schedule(context: dg.ScheduleEvaluationContext, store: StoreParam) -> Requests:
        week = context.scheduled_execution_time.date().isoformat()
        return source_requests(context.instance, store, source, once_per=week)

    return schedule


def source_requests(
    instance: dg.DagsterInstance, store: AssetStore, settings: SourceSettings, once_per: str = ""
) -> Requests:
    """A run for each range of neighbouring stale shards, once the partitions are the source's; or why there is none.

    A run's key is made of the shards' stamps, so the same files are one run, and of `once_per`, the period after which
    a failed run is requested again.  Shards of a run that has not ended are left to it: the schedule and the sensor may
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
    requests = []
    for names in ranges(partitions, stale, SHARDS_PER_RUN):
        key = digest({"once_per": once_per, **{name: shards[name].stamp for name in names}})
        requests.append(request(key, names))
    unfinished = f" besides the {len(in_work)} that are curated now" if in_work else ""
    return requests or dg.SkipReason(f"no new or changed shard in {settings.trajectories}{unfinished}")


def upcoming_shards(instance: dg.DagsterInstance, store: AssetStore, settings: SourceSettings) -> bool:
    """Whether `new_shards` is on and will request runs at its next tick; what failed it requests once."""
    on = instance.all_instigator_state(
        instigator_type=InstigatorType.SENSOR, instigator_statuses={InstigatorStatus.RUNNING}
    )
    if all(state.instigator_name != NEW_SHARDS for state in on):
        return False
    requests = source_requests(instance, store, settings)
    return isinstance(requests, list) and any(
        not instance.get_runs(dg.RunsFilter(tags={RUN_KEY_TAG: str(one.run_key)}), limit=1) for one in requests
    )


def request(
    key: str | None, partitions: Sequence[str], job: str | None = None, tags: Mapping[str, str] | None = None
) -> dg.RunRequest:
    """The request of a run over neighbouring partitions, none for an asset without partitions."""
    partition = partitions[0] if len(partitions) == 1 else None
    return dg.RunRequest(key, job_name=job, partition_key=partition, tags={**range_tags(partitions), **(tags or {})})


def _is_stale(store: AssetStore, shard: str, stamp: str) -> bool:
    """Whether the shard was never scored, or was pulled from another file."""
    return not store.has(GAIN, shard) or store.current(TRAJECTORIES, shard).provenance["counts"]["stamp"] != stamp


def failed_runs() -> dg.SensorDefinition:
    """The sensor; by default it runs only where the daemon's environment has a webhook, since it would skip every tick
    without one."""
    status = dg.DefaultSensorStatus.RUNNING if os.environ.get(WEBHOOK_VARIABLE) else dg.DefaultSensorStatus.STOPPED

    @dg.run_failure_sensor(
        name="failed_runs",
        description=f"Posts each failed run, its error and a link to the webhook in ${WEBHOOK_VARIABLE}.",
        default_status=status,
    )
    def post_failed_run(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
        webhook = os.environ.get(WEBHOOK_VARIABLE)
        if not webhook:
            return dg.SkipReason(f"${WEBHOOK_VARIABLE} names no webhook")
        _post(webhook, {"text": html.escape(_message(context), quote=False), "mrkdwn": False})
        return None

    return post_failed_run


def _message(context: dg.RunFailureSensorContext) -> str:
    """Job, partition, the error of the first failed step (else the run's), and the link to the run."""
    run = context.dagster_run
    partition = run.tags.get("dagster/partition") or run.tags.get("dagster/asset_partition_range_start") or ""
    errors = [
        f"{event.step_key}: {_root_cause(event.step_failure_data.error)}" for event in context.get_step_failure_events()
    ]
    error = (errors or [context.failure_event.message or "no message"])[0]
    ui = os.environ.get(UI_VARIABLE, "http://127.0.0.1:3000").rstrip("/")
    title = " ".join(["Failed:", run.job_name, *([f"({partition})"] if partition else [])])
    return f"{title}\n{error[:MAX_ERROR_CHARS]}\n{ui}/runs/{run.run_id}"


def _root_cause(error: SerializableErrorInfo | None) -> str:
    """The message of the innermost cause, without stack traces."""
    while error is not None and error.cause is not None:
        error = error.cause
    return error.message.strip() if error else "no message"


def _post(webhook: str, body: Mapping[str, str | bool]) -> None:
    """Post as JSON, with retries.  Raises RuntimeError, which the sensor's tick shows, without the secret address."""
    request = urllib.request.Request(webhook, json.dumps(body).encode(), {"Content-Type": "application/json"})
    problem = ""
    for delay in RETRY_DELAYS:
        time.sleep(delay)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT):
                return
        except urllib.error.HTTPError as error:
            problem = f"answered {error.code}"
        except OSError as error:
            problem = f"cannot be reached ({type(error).__name__})"
    raise RuntimeError(f"the webhook in ${WEBHOOK_VARIABLE} {problem}")
