"""`future-l1 ui` serves every asset, refuses mutations with --read-only, and leaves no process behind."""

import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode

import psutil
import pytest

from assets.framework.links import COMPARISON_URL
from tests.loopback import free_port
from tests.pipelines.ui_server import Ui, processes_of, ui
from tests.processes import run, until
from training.runtime.project import PROJECT

LAUNCH = """mutation {launchRun(executionParams: {runConfigData: {}, selector: {repositoryName: "__repository__",
    repositoryLocationName: "future-l1", jobName: "00_write_source"}}) {__typename}}"""
WEB_SOCKET = {
    "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": "graphql-ws",
}  # fmt: skip
NODES = "{assetNodes {assetKey {path} groupName}}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    with ui(tmp_path_factory.mktemp("ui"), "demo", "--allowed-host", "future-l1.example.org") as served:
        yield served


@pytest.fixture(scope="module")
def read_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    with ui(tmp_path_factory.mktemp("read-only"), "demo", "--read-only") as served:
        yield served


def test_another_sites_page_starts_nothing_over_http_or_websocket(served: Ui) -> None:
    launch = {"query": LAUNCH}
    cross_origin, same_origin = {"Origin": "http://evil.example"}, {"Origin": served.url}
    rebound = {"Host": "evil.example", "Origin": "http://evil.example"}
    proxied = {"Host": "future-l1.example.org", "Origin": "https://future-l1.example.org"}
    for headers in (cross_origin, rebound):
        assert status(served, "GET", {"query": NODES}, headers) == 403
        assert status(served, "POST", launch, headers) == 403
        assert status(served, "GET", {}, headers | WEB_SOCKET) == 403
        assert status(served, "GET", {}, headers, COMPARISON_URL) == 403
    assert status(served, "GET", launch, {}) == status(served, "GET", launch, same_origin) == 405
    assert served.runs() == []
    for headers in ({}, same_origin, proxied):
        assert status(served, "GET", {"query": NODES}, headers) == 200
        assert status(served, "GET", {}, headers | WEB_SOCKET) == 101
        assert status(served, "GET", {}, headers, COMPARISON_URL) == 404, "there is none yet"
    assert status(served, "POST", launch, proxied) == 200
    assert [run["jobName"] for run in served.runs()] == ["00_write_source"]


def status(
    served: Ui, method: str, parameters: dict[str, str], headers: dict[str, str], path: str = "/graphql"
) -> int:
    """How an address, GraphQL's by default, answers a request with its query string."""
    connection = HTTPConnection(served.url.removeprefix("http://"), timeout=60)
    with closing(connection):
        connection.request(method, f"{path}?{urlencode(parameters)}", headers=headers)
        return connection.getresponse().status


def test_a_read_only_ui_has_a_healthy_daemon_and_refuses_mutations(read_only: Ui) -> None:
    health = "{instance {daemonHealth {allDaemonStatuses {daemonType required healthy}}}}"
    daemons = read_only.query(health)["instance"]["daemonHealth"]["allDaemonStatuses"]
    required = {daemon["daemonType"]: daemon["healthy"] for daemon in daemons if daemon["required"]}
    assert {"SENSOR", "SCHEDULER", "BACKFILL", "MONITORING", "QUEUED_RUN_COORDINATOR"} <= set(required)
    assert all(required.values())
    with pytest.raises(AssertionError, match="UnauthorizedError"):
        read_only.launch("00_write_source")
    assert read_only.runs() == []
    refused = run("ui", "--port", free_port(), FUTURE_L1_HOME=str(read_only.home))
    assert refused.returncode == 1 and f"another `future-l1 ui` serves {read_only.home}" in refused.stderr
    assert read_only.query(NODES)["assetNodes"], "the first goes on"


@pytest.mark.parametrize(("fixture", "number"), [("served", signal.SIGKILL), ("read_only", signal.SIGTERM)])
def test_the_ui_serves_every_asset_and_leaves_nothing_behind(
    request: pytest.FixtureRequest, fixture: str, number: signal.Signals
) -> None:
    """Which ends the UI that the tests before had."""
    served: Ui = request.getfixturevalue(fixture)
    nodes = served.query(NODES)["assetNodes"]
    assert {node["groupName"] for node in nodes} == {
        "inputs", "trajectories", "curation", "checkpoints", "benchmarks", "reports",
    }  # fmt: skip
    family = psutil.Process(served.process.pid).children(recursive=True)
    assert len(family) >= 2
    assert served.part("pipelines.daemon").environ()["DAGSTER_GRPC_TIMEOUT_SECONDS"] == "600"
    served.process.send_signal(number)
    served.process.wait(timeout=120)
    _, alive = psutil.wait_procs(family, timeout=120)
    assert alive == []
    assert until(lambda: not processes_of(served.home), "nobody works for this home")
    assert served.process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 128 + number)


def test_a_port_in_use_is_an_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        ended = run("ui", "--port", port, FUTURE_L1_HOME=str(tmp_path))
    assert ended.returncode == 1
    assert f"cannot serve on 127.0.0.1:{port}: Address already in use; another --port" in ended.stderr
    assert processes_of(tmp_path) == []


def test_an_instance_that_several_begin_at_once_is_made_once(tmp_path: Path) -> None:
    """What `future-l1 ui` does before it starts two servers, in four processes at the same moment."""
    code = "import sys; from pathlib import Path; from pipelines.instance import initialize_instance as initialize; "
    code += "sys.stdin.read(); initialize(Path(sys.argv[1]))"
    makers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=PROJECT, stdin=subprocess.PIPE)
        for _ in range(4)
    ]
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.close()
    assert [maker.wait(timeout=120) for maker in makers] == [0] * 4
    (versions,) = (tmp_path / "dagster" / "schedules").glob("*.db")
    with sqlite3.connect(versions) as database:
        assert len(database.execute("select version_num from alembic_version").fetchall()) == 1
