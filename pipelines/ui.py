"""Dagster's webserver and daemon: start, health check and end of both together."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.instance import exclusive_ui, initialize_instance
from pipelines.profile import make_environment_absolute
from training.runtime import supervisor
from training.runtime.interrupts import defer_interrupts
from training.runtime.project import PROJECT, WORKSPACE, python_variables

STARTUP_TIMEOUT = 120.0
HEALTH_QUERY = """{
    workspaceOrError {... on Workspace {locationEntries {
        locationOrLoadError {__typename ... on PythonError {message}}}}}
    instance {daemonHealth {allDaemonStatuses {daemonType required healthy}}}
}"""
DEADLINES = supervisor.Deadlines(sigint_grace=7.0, sigterm_grace=2.0)
"""Grace periods of servers and runs; the programs of runs, which may save a checkpoint, have the profile's."""


class UnhealthyError(RuntimeError):
    """The webserver or the daemon did not become healthy, or ended by itself."""


def serve(home: Path, host: str, port: int, allowed_hosts: Sequence[str] = (), read_only: bool = False) -> None:
    """Serve the UI until an interrupt; leaves no process behind.

    allowed_hosts: names of this server besides `host`, such as a proxy's.  With `read_only` the webserver refuses
    mutations; schedules, sensors and queued runs go on.  Raises UnhealthyError if the webserver or the daemon ends, and
    ValueError for an allowed host that is no host name.
    """
    for name in allowed_hosts:
        from pipelines.webserver import split_host  # slow: dagster-webserver

        split_host(name)
    _raise_if_port_in_use(host, port)
    make_environment_absolute(home)
    initialize_instance(home)
    names = [option for name in allowed_hosts for option in ("--allowed-host", name)]
    mode = ["--read-only"] if read_only else []
    commands = [
        ["-m", "pipelines.webserver", "--host", host, "--port", str(port), *names, *mode],
        ["-m", "dagster._daemon", "run", "-w", str(WORKSPACE)],
    ]
    children: list[subprocess.Popen[str]] = []
    with exclusive_ui(home) as lock:
        try:
            for command in commands:
                children.append(_start(command, lock))
            url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            _wait_for_health(f"{url}/graphql", children)
            print(f"Dagster is on {url} (Ctrl-C ends it)", flush=True)
            while True:
                _raise_if_ended(children)
                time.sleep(1.0)
        finally:
            with defer_interrupts():
                for child in children:
                    supervisor.request_stop(child)
                for child in children:
                    supervisor.end(child, DEADLINES)


def _raise_if_port_in_use(host: str, port: int) -> None:
    """Bind the address once: the webserver itself would fail only after it has loaded the definitions."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UnhealthyError(
            f"cannot serve on {host}:{port}: {error.strerror}; another --port (PORT= of make ui) may do"
        ) from error


def _start(command: Sequence[str], lock: int) -> subprocess.Popen[str]:
    """Start a child that ends, with its descendants, when this process does, even by SIGKILL; it holds the home's lock
    until then."""
    return supervisor.start(
        [sys.executable, *command], DEADLINES, cwd=PROJECT, env={**os.environ, **python_variables()}, pass_fds=(lock,)
    )


def _wait_for_health(url: str, children: Sequence[subprocess.Popen[str]]) -> None:
    """Wait until the webserver answers and has loaded the definitions (until then, and after a failure to load them, it
    serves an empty workspace), and until every required daemon has sent a heartbeat."""
    deadline = time.monotonic() + STARTUP_TIMEOUT
    request = urllib.request.Request(
        url, data=json.dumps({"query": HEALTH_QUERY}).encode(), headers={"Content-Type": "application/json"}
    )
    missing = "no answer"
    while time.monotonic() < deadline:
        _raise_if_ended(children)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                missing = _missing(json.load(answer)["data"])
            if not missing:
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            missing = str(error)
        time.sleep(0.3)
    raise UnhealthyError(f"{url} was not healthy within {STARTUP_TIMEOUT:.0f} s: {missing}")


def _missing(health: Mapping[str, Any]) -> str:
    """What is unhealthy in an answer to HEALTH_QUERY, as a sentence; empty where nothing is."""
    loaded = [entry["locationOrLoadError"] or {} for entry in health["workspaceOrError"]["locationEntries"]]
    if not loaded or any(location.get("__typename") != "RepositoryLocation" for location in loaded):
        return "; ".join(location.get("message", "still loading") for location in loaded) or "no definitions"
    daemons = health["instance"]["daemonHealth"]["allDaemonStatuses"]
    silent = [daemon["daemonType"] for daemon in daemons if daemon["required"] and not daemon["healthy"]]
    return f"no heartbeat from the daemons {', '.join(silent)}" if silent else ""


def _raise_if_ended(children: Sequence[subprocess.Popen[str]]) -> None:
    for child in children:
        if child.poll() is not None:
            raise UnhealthyError(f"{child.args!r} ended with status {child.returncode}; its last lines are above")
