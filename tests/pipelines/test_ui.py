"""`future-l1 ui` serves every asset, and leaves nothing behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]


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
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "ui", "--port", str(port)],
        cwd=ROOT,
        env={**os.environ, "FUTURE_L1_HOME": str(home), "FUTURE_L1_PROFILE": "demo"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()  # a test that failed leaves nothing behind either: the servers are tethered
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_ui_serves_every_asset_and_leaves_nothing_behind(tmp_path: Path, port: int, number: signal.Signals) -> None:
    with started(tmp_path, port) as process:
        assert process.stdout is not None
        assert any(line.startswith("Dagster is on") for line in process.stdout)
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
