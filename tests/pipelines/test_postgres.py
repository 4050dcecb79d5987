"""The demo's light assets, driven with a real PostgreSQL behind Dagster."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pgserver
import pytest

from pipelines.instance import POSTGRES_VARIABLE, dagster_home
from tests.processes import environment
from training.runtime.project import PROJECT

DRIVE = """
import sys
from pathlib import Path
from rich.console import Console
from pipelines.driver import run_plan
from pipelines.jobs import plan
from tests.reduced import reduced_demo

profile = reduced_demo(Path(sys.argv[1]))
run_plan(profile, plan(profile)[:4], Console())
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[pgserver.PostgresServer]:
    server = pgserver.get_server(tmp_path / "postgres", cleanup_mode="delete")
    yield server
    server.cleanup()


def test_runs_events_and_partitions_are_kept_in_postgresql(tmp_path: Path, server: pgserver.PostgresServer) -> None:
    home = tmp_path / "home"
    address = server.get_uri().replace("postgresql:", "postgresql+psycopg2:")
    command, variables = [sys.executable, "-c", DRIVE, str(home)], environment(**{POSTGRES_VARIABLE: address})
    ran = subprocess.run(command, cwd=PROJECT, env=variables, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr

    def count(table: str, where: str) -> int:
        return int(server.psql(f"select count(*) from {table} where {where};").splitlines()[2])

    assert count("runs", "status = 'SUCCESS'") == 4
    assert count("runs", "status <> 'SUCCESS'") == 0
    assert count("asset_keys", "asset_key like '%twiff_rows%'") == 1
    assert count("dynamic_partitions", "partitions_def_name = 'twiff_shards'") == 3
    assert not list((home / "dagster").rglob("*.db")), "nothing is in SQLite"
    assert address not in (home / "dagster" / "dagster.yaml").read_text()


def test_a_home_made_with_sqlite_is_not_taken_for_one_with_a_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "")  # what `dagster_home` sets goes with the test
    monkeypatch.delenv(POSTGRES_VARIABLE, raising=False)
    dagster_home(tmp_path)
    monkeypatch.setenv(POSTGRES_VARIABLE, "postgresql://nobody@nowhere/dagster")
    with pytest.raises(ValueError, match="keeps runs in SQLite: choose a new home"):
        dagster_home(tmp_path)
