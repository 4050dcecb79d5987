"""The instance of a home folder: pools have limits from the start, and keep those that people set."""

import socket
from pathlib import Path

import dagster as dg
import pytest

from pipelines.instance import POSTGRES_VARIABLE, UnusableHomeError, driver_instance, ready_instance


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


def test_a_database_that_is_down_or_not_named_is_said_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.setenv(POSTGRES_VARIABLE, f"postgresql+psycopg2://user:canary@127.0.0.1:{port}/runs")
    with pytest.raises(UnusableHomeError, match=r"\$FUTURE_L1_POSTGRES names does not answer: .*refused") as raised:
        ready_instance(tmp_path)
    assert "canary" not in str(raised.value)
    monkeypatch.delenv(POSTGRES_VARIABLE)
    with pytest.raises(UnusableHomeError, match=r"keeps runs in PostgreSQL: set \$FUTURE_L1_POSTGRES to its address"):
        ready_instance(tmp_path)
