"""The sensor `failed_runs`: failed runs are posted to a webhook in Slack's format where the environment names one.

An error's text may hold parts of rows, of model outputs and of server replies: it is sent as plain text, escaped as
Slack requires, so that it makes no links and notifies nobody (`<!channel>`).
"""

import html
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping

import dagster as dg
from dagster._utils.error import SerializableErrorInfo

WEBHOOK_VARIABLE = "FUTURE_L1_WEBHOOK"
"""The environment variable with the webhook's address, which is a secret and stands nowhere else."""
UI_VARIABLE = "FUTURE_L1_UI"
"""The environment variable with the UI's address, for the link to the run."""
MAX_ERROR_CHARS = 1500
TIMEOUT = 10.0
RETRY_DELAYS = (0.0, 1.0, 4.0)
"""Seconds before each attempt; we retry here, since Dagster gives a run to the sensor once."""


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
