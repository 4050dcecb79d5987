"""The instance of a home folder: pools have limits from the start, and keep those that people set."""

from pathlib import Path

import dagster as dg
import pytest

from pipelines.instance import driver_instance, ready_instance


def limits(instance: dg.DagsterInstance) -> dict[str, int]:
    return {limit.name: limit.limit for limit in instance.event_log_storage.get_pool_limits()}


def test_pools_have_limits_from_the_start_and_keep_those_that_people_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "")  # what is set there goes with the test
    ready_instance(tmp_path)
    with dg.DagsterInstance.get() as instance:
        assert limits(instance) == {"gpu": 1, "endpoint": 1}
        instance.event_log_storage.set_concurrency_slots("gpu", 2)
    ready_instance(tmp_path)
    with driver_instance(tmp_path) as instance:
        assert limits(instance) == {"gpu": 2, "endpoint": 1}
