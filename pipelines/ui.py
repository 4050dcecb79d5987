"""Dagster's webserver and daemon, together: started, seen to be healthy, and ended together."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from assets.launching.local import end_group
from assets.launching.program import Deadlines
from assets.store import PROJECT
from pipelines.instance import ready_instance

SECONDS_TO_HEALTH = 120.0
LOCATIONS = """{workspaceOrError {... on Workspace {locationEntries {
    locationOrLoadError {__typename ... on PythonError {message}}}}}}"""
SECONDS_TO_LEAVE = 15.0


class UnhealthyError(RuntimeError):
    """The webserver or the daemon did not come up, or ended by itself."""


def serve(home: Path, host: str, port: int) -> None:
    """Serve the UI until SIGINT or SIGTERM; leaves no process behind. Raises UnhealthyError if a part of it ends."""
    ready_instance(home)
    workspace = ["-w", str(PROJECT / "workspace.yaml")]
    commands = [
        ["-m", "dagster_webserver", "-h", host, "-p", str(port), *workspace],
        ["-m", "dagster._daemon", "run", *workspace],
    ]
    children: list[subprocess.Popen[str]] = []
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for command in commands:
            children.append(_start(command))
        _wait_for_health(f"http://{host}:{port}/graphql", children)
        print(f"Dagster is on http://{host}:{port} (Ctrl-C ends it)", flush=True)
        while True:
            _raise_if_ended(children)
            time.sleep(1.0)
    except KeyboardInterrupt:
        print("ending", flush=True)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for child in children:
            end_group(child, Deadlines(SECONDS_TO_LEAVE, SECONDS_TO_LEAVE))


def _start(command: Sequence[str]) -> subprocess.Popen[str]:
    """In a group of its own, which ends with us even if we are killed."""
    tether = [sys.executable, "-m", "training.tether", str(os.getpid()), sys.executable]
    return subprocess.Popen([*tether, *command], cwd=PROJECT, start_new_session=True, text=True)


def _wait_for_health(url: str, children: Sequence[subprocess.Popen[str]]) -> None:
    """Until the webserver answers and has loaded the definitions: it serves an empty workspace before, and also after
    a failure to load them."""
    deadline = time.monotonic() + SECONDS_TO_HEALTH
    question = urllib.request.Request(
        url, data=json.dumps({"query": LOCATIONS}).encode(), headers={"Content-Type": "application/json"}
    )
    seen = "no answer"
    while time.monotonic() < deadline:
        _raise_if_ended(children)
        try:
            with urllib.request.urlopen(question, timeout=5) as answer:
                entries = json.load(answer)["data"]["workspaceOrError"]["locationEntries"]
            loaded = [entry["locationOrLoadError"] or {} for entry in entries]
            if loaded and all(location.get("__typename") == "RepositoryLocation" for location in loaded):
                return
            seen = "; ".join(location.get("message", "still loading") for location in loaded)
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            seen = str(error)
        time.sleep(0.3)
    raise UnhealthyError(f"{url} did not show the definitions within {SECONDS_TO_HEALTH:.0f} s: {seen}")


def _raise_if_ended(children: Sequence[subprocess.Popen[str]]) -> None:
    for child in children:
        if child.poll() is not None:
            raise UnhealthyError(f"{child.args!r} ended with status {child.returncode}; its last lines are above")
