"""A real `future-l1 ui` on a home of a test's own, its GraphQL, and its processes, which are found by their home."""

import json
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.loopback import free_port
from tests.processes import environment, future_l1, until
from training.runtime.project import PROJECT

REPOSITORY = {"repositoryLocationName": "future-l1", "repositoryName": "__repository__"}
FINISHED = ("SUCCESS", "FAILURE", "CANCELED")
UI_LOG = "ui.txt"


class Dagster:
    """A client of Dagster's GraphQL. `post` sends the body of a request and returns that of the response."""

    def __init__(self, post: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._post = post

    def query(self, query: str, **variables: Any) -> dict[str, Any]:
        """The response's data; an assertion fails for a response with errors."""
        answer = self._post({"query": query, "variables": variables})
        assert not answer.get("errors"), answer["errors"]
        return answer["data"]

    def launch(self, job: str, assets: Sequence[str] = (), partition: str | None = None, checks: bool = True) -> str:
        """Queue a run of a job, of all or some of its assets, with or without their checks; returns the run's id."""
        selector: dict[str, Any] = {**REPOSITORY, "jobName": job}
        if assets:
            selector["assetSelection"] = [{"path": key.split("/")} for key in assets]
        if not checks:
            selector["assetCheckSelection"] = []
        tags = [{"key": "dagster/partition", "value": partition}] if partition else []
        query = """mutation($parameters: ExecutionParams!) {launchRun(executionParams: $parameters) {
            __typename ... on LaunchRunSuccess {run {runId}} ... on PythonError {message}
            ... on RunConfigValidationInvalid {errors {message}}}}"""
        parameters = {"selector": selector, "runConfigData": {}, "executionMetadata": {"tags": tags}}
        launched = self.query(query, parameters=parameters)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return launched["run"]["runId"]

    def backfill(self, assets: Sequence[str], partitions: Sequence[str]) -> str:
        """Start a backfill of partitions of assets; returns its id."""
        query = """mutation($parameters: LaunchBackfillParams!) {launchPartitionBackfill(backfillParams: $parameters) {
            __typename ... on LaunchBackfillSuccess {backfillId} ... on PythonError {message}}}"""
        keys = [{"path": key.split("/")} for key in assets]
        parameters = {"assetSelection": keys, "partitionNames": list(partitions)}
        launched = self.query(query, parameters=parameters)["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        return launched["backfillId"]

    def backfills(self) -> list[str]:
        query = "{partitionBackfillsOrError {... on PartitionBackfills {results {id}}}}"
        return [backfill["id"] for backfill in self.query(query)["partitionBackfillsOrError"]["results"]]

    def partitions(self, asset: str) -> list[str]:
        query = (
            "query($path: [String!]!) {assetNodeOrError(assetKey: {path: $path}) {... on AssetNode {partitionKeys}}}"
        )
        return self.query(query, path=asset.split("/"))["assetNodeOrError"]["partitionKeys"]

    def backfill_status(self, backfill: str) -> str:
        query = "query($id: String!) {partitionBackfillOrError(backfillId: $id) {... on PartitionBackfill {status}}}"
        return self.query(query, id=backfill)["partitionBackfillOrError"]["status"]

    def turn_on(self, sensors: Sequence[str], schedules: Sequence[str]) -> None:
        for kind, names in {"sensor": sensors, "schedule": schedules}.items():
            query = f"""mutation($selector: {kind.title()}Selector!) {{
                start{kind.title()}({kind}Selector: $selector) {{__typename}}}}"""
            for name in names:
                started = self.query(query, selector=REPOSITORY | {f"{kind}Name": name})[f"start{kind.title()}"]
                assert started["__typename"] in ("Sensor", "ScheduleStateResult"), started

    def skip_reason(self, sensor: str) -> str | None:
        """Why the last tick of a sensor requested nothing."""
        query = """query($selector: SensorSelector!) {sensorOrError(sensorSelector: $selector) {... on Sensor {
            sensorState {ticks(limit: 1) {skipReason}}}}}"""
        ticks = self.query(query, selector=REPOSITORY | {"sensorName": sensor})["sensorOrError"]["sensorState"]["ticks"]
        return ticks[0]["skipReason"] if ticks else None

    def terminate(self, run: str) -> None:
        query = """mutation($id: String!) {terminateRun(runId: $id) {__typename ... on PythonError {message}}}"""
        answer = self.query(query, id=run)["terminateRun"]
        assert answer["__typename"] == "TerminateRunSuccess", answer

    def status(self, run: str) -> str:
        query = "query($id: ID!) {runOrError(runId: $id) {... on Run {status}}}"
        return self.query(query, id=run)["runOrError"]["status"]

    def runs(self) -> list[dict[str, Any]]:
        """All runs, the newest first: id, status, job, tags."""
        query = "{runsOrError {... on Runs {results {runId status jobName tags {key value}}}}}"
        return self.query(query)["runsOrError"]["results"]

    def finished(self, run: str, seconds: float = 300.0) -> str:
        """The status in which a run ended, waited for."""
        return until(
            lambda: status if (status := self.status(run)) in FINISHED else None, f"run {run} has ended", seconds, 0.5
        )

    def errors(self, run: str) -> str:
        """The errors of the run's failed steps and of the run."""
        query = """query($id: ID!) {logsForRun(runId: $id) {... on EventConnection {events {
            ... on ExecutionStepFailureEvent {error {message causes {message}}} ... on RunFailureEvent {message}
            }}}}"""
        return json.dumps([event for event in self.query(query, id=run)["logsForRun"]["events"] if event], indent=1)


class Ui(Dagster):
    """A running `future-l1 ui`."""

    def __init__(self, process: "subprocess.Popen[str]", home: Path, port: int) -> None:
        super().__init__(self._send)
        self.process, self.home, self.url = process, home, f"http://127.0.0.1:{port}"

    def _send(self, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.url}/graphql", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def part(self, module: str) -> psutil.Process:
        """The webserver (`pipelines.webserver`) or the daemon (`pipelines.daemon`)."""
        (process,) = (one for one in processes_of(self.home) if one.cmdline()[1:3] == ["-m", module])
        return process


def processes_of(home: Path) -> list[psutil.Process]:
    """Every living process that was started for the Dagster instance of a home, whoever its parent is now."""
    processes = []
    for process in psutil.process_iter():
        try:
            if (
                process.environ().get("DAGSTER_HOME") == str(home / "dagster")
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                processes.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return processes


@contextmanager
def everything_ended(home: Path) -> Iterator[None]:
    """Whatever happens within, no process of the home is left after it."""
    try:
        yield
    finally:
        while left := processes_of(home):
            for process in left:
                process.kill()
            psutil.wait_procs(left, timeout=10)


@contextmanager
def ui(home: Path, profile: str, *options: str) -> Iterator[Ui]:
    """`future-l1 ui` as a person starts it, until it is healthy; on leaving it gets SIGINT and must end cleanly.

    A block that raises, or that ended the UI itself, leaves no process behind either.
    """
    home.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), home / UI_LOG
    with log.open("a") as lines, everything_ended(home):
        process = subprocess.Popen(
            future_l1("ui", "--port", port, *options), cwd=PROJECT, stdout=lines, stderr=lines, text=True,
            env=environment(FUTURE_L1_HOME=str(home), FUTURE_L1_PROFILE=profile), start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
        )  # fmt: skip
        try:

            def healthy() -> bool:
                assert process.poll() is None, log.read_text()
                return f"Dagster is on http://127.0.0.1:{port} " in log.read_text()

            until(healthy, f"the UI is healthy ({log})", 180)
            yield Ui(process, home, port)
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                assert process.wait(timeout=180) == 128 + signal.SIGINT, log.read_text()
        finally:
            process.kill()
            process.wait()
