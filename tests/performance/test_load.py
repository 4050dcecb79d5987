"""Dagster under load: 1,000 shard partitions against one, and one run over 100 partitions against runs of one.

Real SQLite instances in homes of their own, each with a code location of its own process as in `make ui`; requests are
the webserver's, in this process, with the queries that its pages send (`ui_queries.json`).
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_webserver.webserver import DagsterWebserver
from starlette.testclient import TestClient

from assets.framework.partitions import SHARDS, range_tags
from assets.launching.launcher import Progress
from pipelines.definitions import build_definitions
from pipelines.instance import driver_instance
from pipelines.jobs import INGEST, LIST_SOURCE
from pipelines.profile import Profile, demo
from tests.assets.trajectories.shard_rows import twiff_row, write
from tests.performance.conftest import Table
from training.runtime.project import PROJECT, WORKSPACE

FEW, MANY, BATCH, ALONE, REPEATS = 1, 1_000, 100, 4, 5
TRAJECTORIES = dg.AssetKey(["trajectories", "twiff_rows"])
UI = json.loads((Path(__file__).parent / "ui_queries.json").read_text())
LOAD = """
import time
started, cpu = time.perf_counter(), time.process_time()
from pipelines.definitions import defs
defs()
print(time.perf_counter() - started, time.process_time() - cpu)
"""


class Spent(NamedTuple):
    """Seconds of wall-clock time and of CPU time; only the first depends on the machine's other load."""

    clock: float
    cpu: float


@contextmanager
def home_of(home: Path) -> Iterator[Path]:
    """A home that the environment names, for this process and those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("FUTURE_L1_HOME", str(home)), ("FUTURE_L1_PROFILE", "demo"), ("DAGSTER_HOME", "")):
            patch.setenv(name, value)
        patch.chdir(PROJECT)
        yield home


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Homes whose shards are registered and pulled, as far as the instance knows."""
    made = {}
    for count in (FEW, MANY):
        made[count] = tmp_path_factory.mktemp(f"shards{count}")
        names = [f"train-{number:05d}-of-{count:05d}" for number in range(count)]
        with home_of(made[count]), driver_instance(made[count]) as instance:
            instance.add_dynamic_partitions(str(SHARDS.name), names)
            for name in names:
                metadata = {"dagster/partition_row_count": 900}
                instance.report_runless_asset_event(
                    dg.AssetMaterialization(TRAJECTORIES, partition=name, metadata=metadata)
                )
    return made


def spent_on_loading(home: Path) -> Spent:
    with home_of(home):
        loaded = [
            subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True) for _ in range(2)
        ]
    return best([Spent(*map(float, one.stdout.split()[-2:])) for one in loaded])


def best(runs: Sequence[Spent]) -> Spent:
    """The shortest of each."""
    return Spent(min(run.clock for run in runs), min(run.cpu for run in runs))


@contextmanager
def webserver(home: Path) -> Iterator[TestClient]:
    """The webserver's application, with the code location in a process of its own."""
    with home_of(home), driver_instance(home) as instance:
        target = WorkspaceFileTarget([str(WORKSPACE)])
        with WorkspaceProcessContext(instance, target) as context:
            (location,) = context.create_request_context().get_code_location_entries().values()
            assert location.code_location is not None, location.load_error
            yield TestClient(DagsterWebserver(context).create_asgi_app())


def answers(client: TestClient, page: str) -> dict[str, Any]:
    """The server's reply to each query of a page."""
    replies = {}
    for name in UI["pages"][page]:
        reply = client.post("/graphql", json=UI["queries"][name])
        assert reply.status_code == 200 and "errors" not in reply.json(), reply.text[:500]
        replies[name] = reply
    return replies


def spent_on(client: TestClient, page: str) -> Spent:
    """The shortest of several visits, after one that warms up; CPU time is the webserver's, which is this process."""
    answers(client, page)
    spent = []
    for _ in range(REPEATS):
        started, cpu = time.perf_counter(), time.process_time()
        answers(client, page)
        spent.append(Spent(time.perf_counter() - started, time.process_time() - cpu))
    return best(spent)


def test_the_pages_of_1000_partitions(homes: Mapping[int, Path], table: Table) -> None:
    spent: dict[str, dict[int, Spent]] = {name: {} for name in ("definitions", *UI["pages"])}
    bytes_sent = {}
    for count, home in homes.items():
        spent["definitions"][count] = spent_on_loading(home)
        with webserver(home) as client:
            for page in UI["pages"]:
                spent[page][count] = spent_on(client, page)
            replies = answers(client, "partitions page")
            bytes_sent[count] = sum(len(reply.content) for reply in replies.values())
            node = replies["PartitionHealthQuery"].json()["data"]["assetNodeOrError"]
            assert len(node["assetPartitionStatuses"]["materializedPartitions"]) == count
            assert len(node["partitionKeysByDimension"][0]["partitionKeys"]) == count
    rows = [
        [name, *(f"{t[n].clock:.2f} s ({t[n].cpu:.2f})" for n in (MANY, FEW)), f"{t[MANY].cpu / t[FEW].cpu:.2f} x"]
        for name, t in spent.items()
    ]
    sent = [f"{bytes_sent[count] / 1024:,.0f} KiB" for count in (MANY, FEW)]
    rows.append(["partitions page, bytes", *sent, f"{bytes_sent[MANY] / bytes_sent[FEW]:.1f} x"])
    head = ["", f"{MANY:,} partitions", f"{FEW}", "ratio of CPU"]
    table("Dagster's pages of trajectories/twiff_rows, seconds (of CPU)", head, rows)


@pytest.fixture
def shards(tmp_path: Path) -> Profile:
    """A source of tiny shards, one for each partition below."""
    source = tmp_path / "twiff"
    source.mkdir()
    for number in range(BATCH + 2 * ALONE):
        rows = [twiff_row(video=f"{number:08d}{row:03d}_0.mp4") for row in range(3)]
        write(source / f"{number:05d}.parquet", rows)
    profile = demo(tmp_path / "home")
    update = {"trajectories": str(source), "quarantine_limit": 1.0}
    return profile.model_copy(update={"source": profile.source.model_copy(update=update), "toyworld": None})


def quiet() -> Progress:
    return lambda done, total, what: None


def ran(profile: Profile, instance: dg.DagsterInstance, partitions: Sequence[str]) -> tuple[float, str]:
    """Seconds and id of one run over these partitions of the light asset."""
    job = build_definitions(profile, quiet()).resolve_job_def(INGEST.job)
    started = time.perf_counter()
    result = job.execute_in_process(
        instance=instance,
        partition_key=partitions[0] if len(partitions) == 1 else None,
        asset_selection=[TRAJECTORIES],
        tags=range_tags(partitions),
        run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}},
    )
    assert result.success
    return time.perf_counter() - started, result.run_id


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def seconds_of_a_process(profile: Profile, overlay: Path, partition: str) -> float:
    """One partition in a run of its own process, about as a run launcher starts it."""
    command = ["-m", "dagster", "asset", "materialize", "--select", "trajectories/twiff_rows", "--partition", partition]
    environment = {**os.environ, "FUTURE_L1_HOME": str(profile.home), "FUTURE_L1_PROFILE": str(overlay)}
    started = time.perf_counter()
    subprocess.run([sys.executable, *command, "-m", "pipelines.definitions"], cwd=PROJECT, env=environment,
                   capture_output=True, check=True)  # fmt: skip
    return time.perf_counter() - started


def test_one_run_over_100_partitions_against_runs_of_one(shards: Profile, tmp_path: Path, table: Table) -> None:
    overlay = tmp_path / "shards.toml"
    overlay.write_text(
        f'extends = "demo"\n[source]\ntrajectories = "{shards.source.trajectories}"\nquarantine_limit = 1.0\n'
    )
    with home_of(shards.home), driver_instance(shards.home) as instance:
        observe = build_definitions(shards, quiet()).resolve_job_def(LIST_SOURCE.job)
        assert observe.execute_in_process(instance=instance).success
        names = instance.get_dynamic_partitions(str(SHARDS.name))
        history = shards.home / "dagster" / "history"
        ran(shards, instance, names[:1])  # warms up
        before = size_of(history)
        alone = [ran(shards, instance, [name]) for name in names[BATCH : BATCH + ALONE]]
        between = size_of(history)
        together, run_id = ran(shards, instance, names[:BATCH])
        after = size_of(history)
        rows = [len(instance.all_logs(run)) for run in (alone[0][1], run_id)]
        process = seconds_of_a_process(shards, overlay, names[BATCH + ALONE])
        assert set(instance.get_materialized_partitions(TRAJECTORIES)) >= set(names[: BATCH + ALONE])
    single = median(seconds for seconds, _ in alone)
    each = together / BATCH
    grown = [(between - before) / ALONE / 1024, (after - between) / 1024]
    events, bytes_ = (f"{one * BATCH / many:.1f} x for {BATCH}" for one, many in (rows, grown))
    lines = [
        ["seconds a partition, one run", f"{each:.3f}", "1.0 x", f"{BATCH}"],
        ["... a run each in one process", f"{single:.3f}", f"{single / each:.1f} x", f"{ALONE}"],
        ["... a run each in a process of its own", f"{process:.2f}", f"{process / each:.0f} x", "1"],
        [f"events, a run of 1 / of {BATCH}", f"{rows[0]} / {rows[1]}", events, ""],
        [f"KiB of history, a run of 1 / of {BATCH}", f"{grown[0]:.0f} / {grown[1]:.0f}", bytes_, ""],
    ]
    table(
        f"One run over {BATCH} partitions of trajectories/twiff_rows (shards of 3 rows)", ["", "", "ratio", "n"], lines
    )
