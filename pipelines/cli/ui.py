"""`future-l1 ui`: start, health check and end of Dagster's webserver and daemon together."""

import json
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import click

from pipelines.cli.common import current_profile
from pipelines.cli.servers import UnhealthyError, ask, raise_if_ended, raise_if_port_in_use, url_of
from pipelines.instance import exclusive_ui, initialize_instance
from pipelines.profile import make_environment_absolute
from pipelines.shards import register_shards
from training.runtime.launch import supervised
from training.runtime.project import PROJECT, WORKSPACE
from training.runtime.supervisor import Deadlines, request_stop

STARTUP_TIMEOUT = 120.0
HEALTH_QUERY = """{
    workspaceOrError {... on Workspace {locationEntries {
        locationOrLoadError {__typename ... on PythonError {message}}}}}
    instance {daemonHealth {allDaemonStatuses {daemonType required healthy}}}
}"""
GRPC_TIMEOUT = {"DAGSTER_GRPC_TIMEOUT_SECONDS": "600"}
"""Of Dagster's own requests, as to start a run: after its 60 s, runs fail on a machine whose cores are all busy."""
DEADLINES = Deadlines(sigint_grace=7.0, sigterm_grace=2.0)
"""Grace periods of servers and runs; the programs of runs, which may save a checkpoint, have the profile's."""


@click.command(name="ui")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=3000, show_default=True)
@click.option("--allowed-host", "allowed_hosts", multiple=True, metavar="NAME", envvar="FUTURE_L1_ALLOWED_HOSTS",
              help="A further name of this server, NAME or NAME:PORT, as of a proxy; may be repeated.")  # fmt: skip
@click.option("--read-only", is_flag=True, help="Refuse whatever would change something; the daemon goes on.")
def serve_ui(host: str, port: int, allowed_hosts: tuple[str, ...], read_only: bool) -> None:
    """Serve Dagster (webserver and daemon) until Ctrl-C.

    Requests under another host name, or from another site's page, are refused. FUTURE_L1_ALLOWED_HOSTS may hold further
    names, with blanks between.

    \b
    Example:
      future-l1 ui --port 3000
    """
    for name in allowed_hosts:
        from pipelines.same_origin import split_host

        split_host(name)
    raise_if_port_in_use(host, port)
    profile = current_profile()
    home = profile.home
    make_environment_absolute(home)
    initialize_instance(home)
    if reason := register_shards(profile):
        print(reason, flush=True)
    names = [option for name in allowed_hosts for option in ("--allowed-host", name)]
    mode = ["--read-only"] if read_only else []
    commands = [
        ["-m", "pipelines.webserver", "--host", host, "--port", str(port), *names, *mode],
        ["-m", "pipelines.daemon", "run", "-w", str(WORKSPACE)],
    ]
    children: dict[str, subprocess.Popen[str]] = {}
    with exclusive_ui(home) as lock, ExitStack() as stack:
        try:
            for command in commands:  # each holds the home's lock until it has ended
                child = supervised(command, DEADLINES, GRPC_TIMEOUT, cwd=PROJECT, pass_fds=(lock,))
                children[command[1]] = stack.enter_context(child)
            url = url_of(host, port)
            _wait_for_health(f"{url}/graphql", children)
            print(f"Dagster is on {url} (Ctrl-C ends it)", flush=True)
            while True:
                raise_if_ended(children)
                time.sleep(1.0)
        finally:
            for process in children.values():
                request_stop(process)


def _wait_for_health(url: str, children: Mapping[str, subprocess.Popen[str]]) -> None:
    """Wait until the webserver answers and has loaded the definitions (until then, and after a failure to load them, it
    serves an empty workspace), and until every required daemon has sent a heartbeat."""
    deadline = time.monotonic() + STARTUP_TIMEOUT
    request = urllib.request.Request(
        url, data=json.dumps({"query": HEALTH_QUERY}).encode(), headers={"Content-Type": "application/json"}
    )
    missing = "no answer"
    while time.monotonic() < deadline:
        raise_if_ended(children)
        try:
            with ask(request) as answer:
                missing = _missing(json.load(answer)["data"])
            if not missing:
                return
        except OSError as error:
            missing = str(error)
        time.sleep(0.3)
    raise UnhealthyError(f"{url} was not healthy within {STARTUP_TIMEOUT:.0f} s: {missing}")


def _missing(health: Mapping[str, Any]) -> str:
    """The faults in an answer to HEALTH_QUERY, as a sentence; empty where there is none."""
    loaded = [entry["locationOrLoadError"] or {} for entry in health["workspaceOrError"]["locationEntries"]]
    if not loaded or any(location.get("__typename") != "RepositoryLocation" for location in loaded):
        return "; ".join(location.get("message", "still loading") for location in loaded) or "no definitions"
    daemons = health["instance"]["daemonHealth"]["allDaemonStatuses"]
    silent = [daemon["daemonType"] for daemon in daemons if daemon["required"] and not daemon["healthy"]]
    return f"no heartbeat from the daemons {', '.join(silent)}" if silent else ""
