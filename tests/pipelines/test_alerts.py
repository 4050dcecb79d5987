"""A failed run is posted to the webhook with its error and a link, and the webhook's address stands in no error."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import dagster as dg
import pytest

from pipelines import alerts
from pipelines.alerts import UI_VARIABLE, WEBHOOK_VARIABLE, failed_runs
from tests.loopback import Quiet, serving

SECRET = "T0KEN"


class Posts(list[dict[str, Any]]):
    """The bodies of all posts; `status` is the answer to the next one."""

    status = 200
    url = ""


@pytest.fixture
def webhook() -> Iterator[Posts]:
    posts = Posts()

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(posts.status)
            self.end_headers()

    with serving(Handler) as url:
        posts.url = f"{url}/{SECRET}"
        yield posts


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(["la_dapo"]))
def checkpoint() -> None:
    raise ValueError("the eighth row is <!channel> & <http://evil.example|broken>")


def failed() -> dg.RunFailureSensorContext:
    instance = dg.DagsterInstance.ephemeral()
    job = dg.Definitions(assets=[checkpoint], jobs=[dg.define_asset_job("train_rl", "*")]).resolve_job_def("train_rl")
    result = job.execute_in_process(instance=instance, partition_key="la_dapo", raise_on_error=False)
    (event,) = (event for event in result.all_events if event.event_type == dg.DagsterEventType.RUN_FAILURE)
    context = dg.build_run_status_sensor_context("failed_runs", event, instance, result.dagster_run)
    return context.for_run_failure()


def test_a_failed_run_is_posted(webhook: Posts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEBHOOK_VARIABLE, webhook.url)
    monkeypatch.setenv(UI_VARIABLE, "https://runs.example/")
    context = failed()
    failed_runs()(context)
    (body,) = webhook
    assert body["mrkdwn"] is False
    assert body["text"].splitlines() == [
        "Failed: train_rl (la_dapo)",
        "checkpoint: ValueError: the eighth row is &lt;!channel&gt; &amp; &lt;http://evil.example|broken&gt;",
        f"https://runs.example/runs/{context.dagster_run.run_id}",
    ]


@pytest.mark.parametrize(("status", "message"), [(404, "answered 404"), (None, "cannot be reached")])
def test_a_webhook_that_does_not_take_it_fails_the_tick_without_its_address(
    webhook: Posts, monkeypatch: pytest.MonkeyPatch, status: int | None, message: str
) -> None:
    webhook.status = status or 200
    monkeypatch.setattr(alerts, "RETRY_DELAYS", (0.0, 0.01))
    monkeypatch.setenv(WEBHOOK_VARIABLE, webhook.url if status else f"http://127.0.0.1:1/{SECRET}")
    with pytest.raises(Exception, match=message) as caught:
        failed_runs()(failed())
    chain, error = [], caught.value
    while error is not None:
        chain.append(str(error))
        error = error.__cause__
    assert not any(SECRET in text for text in chain)
    assert len(webhook) == (2 if status else 0), "it is tried again"


def test_it_is_on_where_the_environment_has_a_webhook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEBHOOK_VARIABLE, raising=False)
    assert failed_runs().default_status == dg.DefaultSensorStatus.STOPPED
    monkeypatch.setenv(WEBHOOK_VARIABLE, "http://127.0.0.1:1")
    assert failed_runs().default_status == dg.DefaultSensorStatus.RUNNING
