"""A run that failed is told to a webhook (Slack's shape), when the environment names one.

Rows, models and servers have a say in an error's text: it goes out as plain text, escaped as Slack wants it, so that it
makes no links and calls nobody (`<!channel>`).
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
"""The address; a secret, so it is nowhere else."""
UI_VARIABLE = "FUTURE_L1_UI"
"""Where people open the UI, for the link."""
LONGEST_ERROR = 1500
SECONDS = 10.0
PAUSES = (0.0, 1.0, 4.0)
"""Before each attempt: Dagster gives a run to the sensor once."""


def failed_runs() -> dg.SensorDefinition:
    """On from the start where the daemon's environment has a webhook; without one every tick would say so."""

    @dg.run_failure_sensor(
        name="failed_runs",
        description=f"Posts each failed run, its error and a link to the webhook in ${WEBHOOK_VARIABLE}.",
        default_status=_status(),
    )
    def post_failed_run(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
        webhook = os.environ.get(WEBHOOK_VARIABLE)
        if not webhook:
            return dg.SkipReason(f"${WEBHOOK_VARIABLE} names no webhook")
        _post(webhook, {"text": html.escape(_told(context), quote=False), "mrkdwn": False})
        return None

    return post_failed_run


def _status() -> dg.DefaultSensorStatus:
    return dg.DefaultSensorStatus.RUNNING if os.environ.get(WEBHOOK_VARIABLE) else dg.DefaultSensorStatus.STOPPED


def _told(context: dg.RunFailureSensorContext) -> str:
    """Job, partition, the first failed step's error (else the run's), and where to look."""
    run = context.dagster_run
    where = run.tags.get("dagster/partition") or run.tags.get("dagster/asset_partition_range_start") or ""
    errors = [
        f"{event.step_key}: {_cause(event.step_failure_data.error)}" for event in context.get_step_failure_events()
    ]
    error = (errors or [context.failure_event.message or "no message"])[0]
    ui = os.environ.get(UI_VARIABLE, "http://127.0.0.1:3000").rstrip("/")
    title = " ".join(["Failed:", run.job_name, *([f"({where})"] if where else [])])
    return f"{title}\n{error[:LONGEST_ERROR]}\n{ui}/runs/{run.run_id}"


def _cause(error: SerializableErrorInfo | None) -> str:
    """What went wrong at the bottom of it, without the stacks."""
    while error is not None and error.cause is not None:
        error = error.cause
    return error.message.strip() if error else "no message"


def _post(webhook: str, body: Mapping[str, str | bool]) -> None:
    """Raises RuntimeError, without the address, when it does not arrive: the tick then shows it."""
    request = urllib.request.Request(webhook, json.dumps(body).encode(), {"Content-Type": "application/json"})
    problem = ""
    for pause in PAUSES:
        time.sleep(pause)
        try:
            with urllib.request.urlopen(request, timeout=SECONDS):
                return
        except urllib.error.HTTPError as error:
            problem = f"answered {error.code}"
        except OSError as error:
            problem = f"cannot be reached ({type(error).__name__})"
    raise RuntimeError(f"the webhook in ${WEBHOOK_VARIABLE} {problem}")
