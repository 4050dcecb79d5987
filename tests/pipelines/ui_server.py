"""A real `future-l1 ui` on a home of a test's own, asked over GraphQL, with every process of it known by its home."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil

ROOT = Path(__file__).parents[2]
REPOSITORY = {"repositoryLocationName": "future-l1", "repositoryName": "__repository__"}
FINISHED = ("SUCCESS", "FAILURE", "CANCELED")
UI_LOG = "ui.txt"

Found = TypeVar("Found")


def until(look: Callable[[], Found], what: str, seconds: float = 300.0, between: float = 0.2) -> Found:
    """What `look` finds once it finds something; an assertion that says `what` was waited for if it never does."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited for {seconds:.0f} s, and not yet: {what}"
        time.sleep(between)
    return found


class Dagster:
    """Dagster's GraphQL in a test's words. `post` sends a request's body and returns the answer's."""

    def __init__(self, post: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._post = post

    def asked(self, query: str, **variables: Any) -> dict[str, Any]:
        """The answer's data; an answer with errors is an assertion."""
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
        launched = self.asked(query, parameters=parameters)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return launched["run"]["runId"]

    def backfill(self, assets: Sequence[str], partitions: Sequence[str]) -> str:
        """Start a backfill of partitions of assets; returns its id."""
        query = """mutation($parameters: LaunchBackfillParams!) {launchPartitionBackfill(backfillParams: $parameters) {
            __typename ... on LaunchBackfillSuccess {backfillId} ... on PythonError {message}}}"""
        keys = [{"path": key.split("/")} for key in assets]
        parameters = {"assetSelection": keys, "partitionNames": list(partitions)}
        launched = self.asked(query, parameters=parameters)["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        return launched["backfillId"]

    def backfill_status(self, backfill: str) -> str:
        query = "query($id: String!) {partitionBackfillOrError(backfillId: $id) {... on PartitionBackfill {status}}}"
        return self.asked(query, id=backfill)["partitionBackfillOrError"]["status"]

    def terminate(self, run: str) -> None:
        query = """mutation($id: String!) {terminateRun(runId: $id) {__typename ... on PythonError {message}}}"""
        answer = self.asked(query, id=run)["terminateRun"]
        assert answer["__typename"] == "TerminateRunSuccess", answer

    def status(self, run: str) -> str:
        query = "query($id: ID!) {runOrError(runId: $id) {... on Run {status}}}"
        return self.asked(query, id=run)["runOrError"]["status"]

    def runs(self) -> list[dict[str, Any]]:
        """All runs, the newest first: id, status, job, tags."""
        query = "{runsOrError {... on Runs {results {runId status jobName tags {key value}}}}}"
        return self.asked(query)["runsOrError"]["results"]

    def finished(self, run: str, seconds: float = 300.0) -> str:
        """The status in which a run ended, waited for."""
        return until(
            lambda: status if (status := self.status(run)) in FINISHED else None, f"run {run} has ended", seconds, 0.5
        )

    def errors(self, run: str) -> str:
        """What the run's failed steps, or the run itself, gave as reasons."""
        query = """query($id: ID!) {logsForRun(runId: $id) {... on EventConnection {events {
            ... on ExecutionStepFailureEvent {error {message causes {message}}} ... on RunFailureEvent {message}
            }}}}"""
        return json.dumps([event for event in self.asked(query, id=run)["logsForRun"]["events"] if event], indent=1)


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
        """The webserver (`pipelines.webserver`) or the daemon (`dagster._daemon`)."""
        (found,) = (one for one in processes_of(self.home) if one.cmdline()[1:3] == ["-m", module])
        return found


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def processes_of(home: Path) -> list[psutil.Process]:
    """Every living process that was started for the Dagster instance of a home, whoever its parent is now."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.environ().get("DAGSTER_HOME") == str(home / "dagster")
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


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
    with log.open("a") as said, everything_ended(home):
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines", "ui", "--port", str(port), *options],
            cwd=ROOT, env=environment(home, profile), stdout=said, stderr=said, text=True, start_new_session=True,
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


def environment(home: Path, profile: str) -> dict[str, str]:
    """For `future-l1` on this home and profile, from the source tree that the tests are in."""
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    own: Mapping[str, str] = {"FUTURE_L1_HOME": str(home), "FUTURE_L1_PROFILE": profile, "PYTHONPATH": paths}
    return {**os.environ, "OMP_NUM_THREADS": "1", **own}


def future_l1(home: Path, profile: str, *command: str) -> None:
    """Run a command to its end, on this home and profile."""
    ran = subprocess.run(
        [sys.executable, "-m", "pipelines", *command],
        cwd=ROOT, env=environment(home, profile), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
