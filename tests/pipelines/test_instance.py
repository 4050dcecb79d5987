"""Runs that a killed driver or UI left unfinished are repaired at the next start; homes have any name and one lock."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from pipelines.instance import (
    DRIVER_TAG,
    AlreadyRunningError,
    dagster_home,
    driver_instance,
    exclusive_ui,
    initialize_instance,
)

DRIVER, UI = "a-drivers", "a-uis"
NAMES = ("runs (final?)", "100%", "%20", "a[1]*", "-x", "a:b", "一 二", "a#b&c", "a=1")


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """An instance with a run of a driver and a run of a UI, each with a slot of the pool `gpu`."""
    monkeypatch.setenv("DAGSTER_HOME", "")  # what `dagster_home` sets goes with the test
    initialize_instance(tmp_path)
    with dg.DagsterInstance.get() as instance:
        instance.event_log_storage.set_concurrency_slots("gpu", 2)
        for run, tags in ((DRIVER, {DRIVER_TAG: "in process"}), (UI, {})):
            instance.add_run(dg.DagsterRun("train_sft", run, status=dg.DagsterRunStatus.STARTED, tags=tags))
            instance.event_log_storage.claim_concurrency_slot("gpu", run, "checkpoints__sft")
        yield instance


def failed_and_slots(instance: dg.DagsterInstance) -> tuple[set[str], int]:
    """The failed runs, and the number of slots in use."""
    failed = {run.run_id for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))}
    return failed, instance.event_log_storage.get_concurrency_info("gpu").active_slot_count


@pytest.mark.parametrize("begin", [driver_instance, exclusive_ui])
def test_runs_of_who_was_killed_have_failed_and_give_their_slots_back(
    tmp_path: Path, instance: dg.DagsterInstance, begin: Callable[[Path], AbstractContextManager[Any]]
) -> None:
    assert failed_and_slots(instance) == (set(), 2)
    with begin(tmp_path):
        assert failed_and_slots(instance) == ({DRIVER, UI}, 0)


def test_a_driver_leaves_the_runs_of_a_living_ui_alone(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    with exclusive_ui(tmp_path):
        instance.add_run(dg.DagsterRun("train_rl", "newer", status=dg.DagsterRunStatus.STARTED))
        with driver_instance(tmp_path):
            assert failed_and_slots(instance) == ({DRIVER, UI}, 0)


def test_a_ui_leaves_the_runs_of_a_living_driver_alone(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    with driver_instance(tmp_path):
        tags = {DRIVER_TAG: "in process"}
        instance.add_run(dg.DagsterRun("train_rl", "newer", status=dg.DagsterRunStatus.STARTED, tags=tags))
        with exclusive_ui(tmp_path):
            assert failed_and_slots(instance) == ({DRIVER, UI}, 0)


def test_a_home_has_one_ui(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    with (
        exclusive_ui(tmp_path),
        pytest.raises(AlreadyRunningError, match="another `future-l1 ui` serves"),
        exclusive_ui(tmp_path),
    ):
        raise AssertionError("there were two")


@pytest.mark.parametrize("name", NAMES)
def test_runs_are_kept_in_a_home_of_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DAGSTER_HOME", "")
    home = tmp_path / name
    initialize_instance(home)
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("shards", ["a"])
    assert dagster_home(home).resolve() == home / "dagster"
    with dg.DagsterInstance.get() as instance:
        assert instance.get_dynamic_partitions("shards") == ["a"]
    assert {path.name for path in tmp_path.iterdir()} <= {name, "cache"}
    assert (home / "dagster" / "history" / "runs.db").is_file()
