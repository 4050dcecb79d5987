"""The partitions that exist before anything is materialised, so that "Materialize all" makes them."""

from pathlib import Path

import dagster as dg
import pytest

from assets.framework.partitions import SHARDS
from assets.toyworld.assets import toyworld_shards
from assets.toyworld.source import SourceSizes, write_source
from assets.trajectories.sources import source_shards
from pipelines.instance import initialize_instance
from pipelines.profile import Profile, demo, overlaid
from pipelines.shards import NOT_REGISTERED, register_shards
from tests.pipelines.served_shards import write_shards

SIZES = SourceSizes(shards=2, rows_per_shard=12, faults_per_shard=0, futurebench_per_split=1, twiffbench=4)


@pytest.fixture(autouse=True)
def _restored_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "")


def registered(profile: Profile) -> tuple[str | None, list[str]]:
    profile.home.mkdir(exist_ok=True)
    initialize_instance(profile.home)
    reason = register_shards(profile)
    with dg.DagsterInstance.get() as instance:
        return reason, list(instance.get_dynamic_partitions(str(SHARDS.name)))


def test_shards_of_the_toy_world_are_those_that_it_has_once_it_is_written(tmp_path: Path) -> None:
    world = {"source": {"rows_per_partition": 5, "trajectories": tmp_path / "world" / "twiff"}}
    profile = overlaid(demo(tmp_path / "home"), world).model_copy(update={"toyworld": SIZES})
    expected = toyworld_shards(SIZES, 5)
    assert len(expected) == 6 and registered(profile) == (None, expected)
    write_source(tmp_path / "world", 0, SIZES)
    assert list(source_shards(profile.source, tmp_path)[2]) == expected


def test_a_local_source_is_listed_and_another_is_left_to_its_asset(tmp_path: Path) -> None:
    write_shards(tmp_path, shards=2, rows=4, faults=0)
    real = demo(tmp_path / "home").model_copy(update={"toyworld": None})
    local = overlaid(real, {"source": {"trajectories": tmp_path / "twiff"}})
    assert registered(local) == (None, ["part-0-0", "part-0-1"])
    for where in ("hf://datasets/lab/twiff@main", str(tmp_path / "clips")):
        reason, names = registered(overlaid(real, {"source": {"trajectories": where}}))
        assert reason and where in reason and reason.endswith(NOT_REGISTERED)
        assert names == ["part-0-0", "part-0-1"], "nothing is removed"
