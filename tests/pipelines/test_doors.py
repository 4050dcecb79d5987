"""Dagster's own commands work from a clone on the home of `make ui`, once a shell has evaluated `future-l1 env`."""

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import pytest

from pipelines.instance import POOLS
from tests.loopback import free_port
from tests.pipelines.ui_server import Ui, everything_ended
from tests.processes import EXIT_TIMEOUT, environment, until
from tests.reduced import smallest_demo, write_overlay
from training.runtime.project import PROJECT

DAGSTER, DG = "dagster", "dagster_dg_cli.cli"
"""The modules of `dagster` and `dg`."""


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a shell that has evaluated `future-l1 env` for a home that is new."""
    folder = tmp_path_factory.mktemp("doors")
    overlay = write_overlay(folder / "mine.toml", smallest_demo(folder))
    variables = environment(FUTURE_L1_HOME=str(folder / "a home"), FUTURE_L1_PROFILE=str(overlay))
    script = f'eval "$({shlex.quote(sys.executable)} -m pipelines env)" && env -0'
    ended = subprocess.run(["bash", "-ec", script], cwd=PROJECT, env=variables, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return dict(line.split("=", 1) for line in ended.stdout.split("\0") if "=" in line) | {"VIRTUAL_ENV": sys.prefix}


def run(shell: dict[str, str], module: str, *arguments: str, answer: str = "") -> str:
    """The output of one of Dagster's commands in the project's folder; it must succeed."""
    ended = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=PROJECT, env=shell, input=answer, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def materialised(shell: dict[str, str]) -> str:
    """A run of `dagster asset materialize`, in a home that no other command has used; its id."""
    run(shell, DAGSTER, "asset", "materialize", "-m", "pipelines.definitions", "--select", "inputs/base_model")
    (made,) = re.findall(r"Run: (\S+)", run(shell, DAGSTER, "run", "list"))
    return str(made)


def test_dg_dev_serves_the_home_with_its_runs_and_its_pools(shell: dict[str, str], materialised: str) -> None:
    home, port = Path(shell["FUTURE_L1_HOME"]), free_port()
    with everything_ended(home):
        process = subprocess.Popen(
            [sys.executable, "-m", DG, "dev", "--port", str(port)], cwd=PROJECT, env=shell, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        served = Ui(process, home, port)

        def runs() -> dict[str, str]:
            try:
                return {run["runId"]: run["status"] for run in served.runs()}
            except (URLError, ConnectionError):
                return {}

        assert until(runs, "dg dev serves the home's runs", process=process) == {materialised: "SUCCESS"}
        limits = served.query("{instance {concurrencyLimits {concurrencyKey slotCount}}}")["instance"]
        assert {pool["concurrencyKey"]: pool["slotCount"] for pool in limits["concurrencyLimits"]} == POOLS
        assert served.partitions("trajectories/twiff_rows"), "or Materialize all would leave them out"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=EXIT_TIMEOUT)


def test_dagsters_commands_know_the_home(shell: dict[str, str], materialised: str) -> None:
    home = Path(shell["FUTURE_L1_HOME"])
    assert shell["DAGSTER_HOME"] == str(home / "dagster")
    assert (home / "artifacts" / "inputs" / "base_model" / "current").exists()
    info = run(shell, DAGSTER, "instance", "info")
    assert re.search(r"telemetry:\s+enabled: false", info) and re.search(r"run_monitoring:\s+enabled: true", info)
    assert "gpu to 8" in run(shell, DAGSTER, "instance", "concurrency", "set", "gpu", "8")
    run(shell, DAGSTER, "definitions", "validate")
    assert f"Deleted run {materialised}" in run(shell, DAGSTER, "run", "delete", materialised, answer="DELETE\n")
