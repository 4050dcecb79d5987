"""What a killed driver or UI left in the instance is put right by whoever comes next; the living are left alone."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from pipelines.instance import DRIVER_TAG, AlreadyRunningError, driver_instance, ready_instance, sole_ui

DRIVER, UI = "a-drivers", "a-uis"


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """Of a home with a run that a driver began, and one that a UI began, each with a slot of the pool `gpu`."""
    monkeypatch.setenv("DAGSTER_HOME", "")  # what `dagster_home` sets goes with the test
    ready_instance(tmp_path)
    with dg.DagsterInstance.get() as instance:
        instance.event_log_storage.set_concurrency_slots("gpu", 2)
        for run, tags in ((DRIVER, {DRIVER_TAG: "in process"}), (UI, {})):
            instance.add_run(dg.DagsterRun("train_sft", run, status=dg.DagsterRunStatus.STARTED, tags=tags))
            instance.event_log_storage.claim_concurrency_slot("gpu", run, "checkpoints__sft")
        yield instance


def told(instance: dg.DagsterInstance) -> tuple[set[str], int]:
    """The runs that have failed, and the slots that are taken."""
    failed = {run.run_id for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))}
    return failed, instance.event_log_storage.get_concurrency_info("gpu").active_slot_count


@pytest.mark.parametrize("begin", [driver_instance, sole_ui])
def test_runs_of_who_was_killed_have_failed_and_give_their_slots_back(
    tmp_path: Path, instance: dg.DagsterInstance, begin: Callable[[Path], AbstractContextManager[Any]]
) -> None:
    assert told(instance) == (set(), 2)
    with begin(tmp_path):
        assert told(instance) == ({DRIVER, UI}, 0)


def test_a_driver_leaves_the_runs_of_a_living_ui_alone(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    with sole_ui(tmp_path):
        instance.add_run(dg.DagsterRun("train_rl", "newer", status=dg.DagsterRunStatus.STARTED))
        with driver_instance(tmp_path):
            assert told(instance) == ({DRIVER, UI}, 0)


def test_a_ui_leaves_the_runs_of_a_living_driver_alone(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    with driver_instance(tmp_path):
        tags = {DRIVER_TAG: "in process"}
        instance.add_run(dg.DagsterRun("train_rl", "newer", status=dg.DagsterRunStatus.STARTED, tags=tags))
        with sole_ui(tmp_path):
            assert told(instance) == ({DRIVER, UI}, 0)


def test_a_home_has_one_ui(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    with (
        sole_ui(tmp_path),
        pytest.raises(AlreadyRunningError, match="another `future-l1 ui` serves"),
        sole_ui(tmp_path),
    ):
        raise AssertionError("there were two")
