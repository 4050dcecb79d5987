"""`future-l1 ui` serves every asset, and leaves nothing behind."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil
import pytest

ROOT = Path(__file__).parents[2]
STDERR = "stderr.txt"


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def asked(port: int, query: str) -> dict:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        data=json.dumps({"query": query}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["data"]


@contextmanager
def started(home: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """The command; what it says on stderr is in `home`/stderr.txt."""
    with (home / STDERR).open("w") as stderr:
        process = _popen(home, port, stderr)
    try:
        yield process
    finally:
        process.kill()  # a test that failed leaves nothing behind either: the servers are tethered
        process.wait()


def _popen(home: Path, port: int, stderr: IO[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "ui", "--port", str(port)],
        cwd=ROOT,
        env={**os.environ, "FUTURE_L1_HOME": str(home), "FUTURE_L1_PROFILE": "demo"},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_ui_serves_every_asset_and_leaves_nothing_behind(tmp_path: Path, port: int, number: signal.Signals) -> None:
    with started(tmp_path, port) as process:
        assert process.stdout is not None
        healthy = any(line.startswith("Dagster is on") for line in process.stdout)
        assert healthy, (tmp_path / STDERR).read_text()
        nodes = asked(port, "{assetNodes{assetKey{path} groupName}}")["assetNodes"]
        assert {node["groupName"] for node in nodes} == {
            "toyworld", "trajectories", "curation", "checkpoints", "benchmarks", "reports",
        }  # fmt: skip
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 2
        process.send_signal(number)
        process.wait(timeout=120)
        _, alive = psutil.wait_procs(family, timeout=120)
        assert alive == []
        assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 0)


def test_a_port_that_is_taken_is_an_error_and_leaves_nothing_behind(tmp_path: Path, port: int) -> None:
    with socket.socket() as taken, started(tmp_path, port) as process:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        process.communicate(timeout=120)
        assert process.returncode == 1


def test_an_instance_that_several_begin_at_once_is_made_once(tmp_path: Path) -> None:
    """What `future-l1 ui` does before it starts two servers, in four processes at the same moment."""
    code = "import sys; from pathlib import Path; from pipelines.instance import ready_instance; sys.stdin.read(); "
    code += "ready_instance(Path(sys.argv[1]))"
    makers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE) for _ in range(4)
    ]
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.close()
    assert [maker.wait(timeout=120) for maker in makers] == [0] * 4
    (versions,) = (tmp_path / "dagster" / "schedules").glob("*.db")
    with sqlite3.connect(versions) as database:
        assert len(database.execute("select version_num from alembic_version").fetchall()) == 1
