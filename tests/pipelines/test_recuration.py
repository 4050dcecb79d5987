"""Schedule and sensor, tick by tick: new and changed shards are curated once, and no others."""

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from dagster._core.test_utils import create_run_for_test

from assets.curation.assets import CURATED
from assets.curation.scored import GAIN
from assets.framework.partitions import SHARDS
from assets.trajectories.assets import TRAJECTORIES
from assets.trajectories.sources import source_shards
from pipelines.cli.curate import curation_profile
from pipelines.definitions import build_definitions
from pipelines.jobs import SELECT
from pipelines.profile import Profile, overlaid, paper
from tests.pipelines.served_shards import Model, judge, write_shards
from tests.pipelines.test_retraining import Room
from tests.served import Served, served

pytestmark = pytest.mark.usefixtures("forks")

AFTER_SELECTION = {
    ("checkpoints/sft", "trained_on_current_sets"), ("reports/comparison", "trained_on_current_sets"),
    ("curation/sft_sets", "sft_rows_can_be_read"),
}  # fmt: skip


class Place:
    """A folder of shards, a served model, and Dagster looking at them."""

    def __init__(self, folder: Path, endpoint: Served, judging: Served, instance: dg.DagsterInstance) -> None:
        self.folder, self.endpoint, self.instance = folder, endpoint, instance
        self.rows: list[dict[str, Any]] = []
        profile = curation_profile(
            paper(folder / "home"), folder / "out", trajectories=str(folder / "twiff"), clips=(str(folder / "clips"),),
            endpoint=(endpoint.url,), model="served", judge=judging.url, judge_model="served", top=2, image_factor=32,
        )  # fmt: skip
        self.profile: Profile = overlaid(profile, {"curation": {"rl_sets": dict.fromkeys(profile.curation.rl_sets, 2)}})
        self.definitions = build_definitions(self.profile)
        self.resources = {"store": self.definitions.resources["store"]}  # type: ignore[index]

    def add(self, seed: int) -> None:
        self.rows += write_shards(self.folder, shards=1, rows=20, faults=0, seed=seed)
        self.endpoint.answer = Model(self.rows)

    def tick(self) -> list[dg.RunRequest] | dg.SkipReason:
        with dg.build_sensor_context(instance=self.instance, resources=self.resources) as context:
            return self.definitions.resolve_sensor_def("new_shards")(context)  # type: ignore[return-value]

    def weekly(self, day: int) -> list[dg.RunRequest] | dg.SkipReason:
        time = datetime(2026, 11, day, 4, tzinfo=UTC)
        with dg.build_schedule_context(
            instance=self.instance, resources=self.resources, scheduled_execution_time=time
        ) as context:
            return self.definitions.resolve_schedule_def("recurate_weekly")(context)  # type: ignore[return-value]

    def run(self, request: dg.RunRequest) -> set[str]:
        """Runs what was requested; returns the shards that were materialised as answers."""
        ran = self.definitions.resolve_job_def("recurate").execute_in_process(
            instance=self.instance, partition_key=request.partition_key, tags=dict(request.tags), raise_on_error=True
        )
        assert ran.success
        materialised = ran.get_asset_materialization_events()
        assert {event.asset_key.to_user_string() for event in materialised} >= set(SELECT.assets)
        checks = {(e.asset_key.to_user_string(), e.check_name) for e in ran.get_asset_check_evaluations()}
        assert checks >= AFTER_SELECTION
        return {str(e.partition) for e in materialised if e.asset_key == dg.AssetKey(["curation", "gain_answers"])}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with served() as endpoint, served(judge) as judging, dg.instance_for_test() as instance:
        yield Place(tmp_path, endpoint, judging, instance)


def test_ticks_curate_what_is_new_or_changed(place: Place) -> None:
    assert isinstance(place.tick(), dg.SkipReason), "there is no shard yet"
    place.add(1)
    place.add(2)
    first = place.tick()
    assert isinstance(first, list)
    assert place.instance.get_dynamic_partitions(str(SHARDS.name)) == ["part-1-0", "part-2-0"]
    (request,) = first
    assert place.run(request) == {"part-1-0", "part-2-0"}

    assert isinstance(place.tick(), dg.SkipReason)
    assert isinstance(place.weekly(23), dg.SkipReason)

    place.add(3)
    sent = len(place.endpoint.requests)
    (request,) = place.tick()  # type: ignore[misc]
    (same,) = place.tick()  # type: ignore[misc]
    assert request.tags == same.tags, "one run for the same files"
    assert request.partition_key == "part-3-0"
    assert place.run(request) == {"part-3-0"}
    result = {str(body) for body in place.endpoint.requests[sent:]}
    assert result and all("(3." in body for body in result), "only the new shard's rows are sent"

    changed = place.folder / "twiff" / "part-2-0.parquet"
    (place.folder / "twiff" / "part-1-0.parquet").touch()  # the same rows
    changed.write_bytes((place.folder / "twiff" / "part-3-0.parquet").read_bytes())
    changed.with_name("part-3-0.parquet").unlink()
    sent = len(place.endpoint.requests)
    monday = place.weekly(30)
    assert isinstance(monday, list)
    for again in monday:
        place.run(again)
    assert place.instance.get_dynamic_partitions(str(SHARDS.name)) == ["part-1-0", "part-2-0"]
    assert {shard for r in monday for shard in (r.partition_key, *r.tags.values())} >= {"part-1-0", "part-2-0"}
    assert len(place.endpoint.requests) > sent, "another shard's ledger is not this one's"
    assert len({again.run_key for again in monday}) == len(monday), "a tick of several names them"


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED])
def test_shards_of_a_run_that_has_not_ended_are_left_to_it(place: Place, status: dg.DagsterRunStatus) -> None:
    for seed in (1, 2, 3):
        place.add(seed)
    place.tick()
    tags = {"dagster/asset_partition_range_start": "part-1-0", "dagster/asset_partition_range_end": "part-2-0"}
    run = create_run_for_test(place.instance, job_name="recurate", status=status, tags=tags)
    for requests in (place.tick(), place.weekly(23)):
        assert [request.partition_key for request in requests] == ["part-3-0"]  # type: ignore[union-attr]
    create_run_for_test(place.instance, job_name="recurate", status=status, tags={"dagster/partition": "part-3-0"})
    for reason in (place.tick(), place.weekly(23)):
        assert isinstance(reason, dg.SkipReason) and "besides the 3 that are curated now" in str(reason.skip_message)
    place.instance.report_run_failed(run)
    (monday,) = place.weekly(30)  # type: ignore[misc]
    assert tags.items() <= monday.tags.items(), "what failed is requested again"


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    with dg.instance_for_test() as instance:
        yield Room(tmp_path, instance)


def write(room: Room, shard: str, second: int) -> None:
    """A shard's file as it was at that second, which is all that its stamp depends on."""
    folder = room.profile.home / "artifacts" / "inputs" / "toyworld_source" / "current" / "twiff"
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame({"row": [1]}).write_parquet(folder / f"{shard}.parquet")
    os.utime(folder / f"{shard}.parquet", (second, second))


def tick(room: Room) -> list[dg.RunRequest] | str:
    """The sensor's requests, or its reason to skip."""
    with dg.build_sensor_context(instance=room.instance, resources={"store": room.store}) as context:
        ticked = room.definitions.resolve_sensor_def("new_shards")(context)
    return str(ticked.skip_message) if isinstance(ticked, dg.SkipReason) else ticked  # type: ignore[return-value]


def recurate(room: Room, shards: Sequence[str], select: bool = True) -> None:
    """Publishes what a run over these shards would make."""
    for shard in shards:
        (stamp,) = (one.stamp for one in source_shards(room.profile.source, room.store.scratch)[2].values()
                    if one.name == shard)  # fmt: skip
        rows = room.store.made(f"{TRAJECTORIES}/{shard}", {"file": stamp}, {"stamp": stamp})
        room.store.made(f"{GAIN}/{shard}", {TRAJECTORIES: rows}, {})
    if select:
        room.store.made(CURATED, room.store.current_artifacts(GAIN), {})


def test_a_file_that_becomes_what_it_was_is_curated_again(room: Room) -> None:
    for second in (1, 2, 1, 2):
        write(room, "a", second)
        (request,) = tick(room)
        assert isinstance(request, dg.RunRequest) and request.partition_key == "a" and request.run_key is None
        room.run(request, dg.DagsterRunStatus.SUCCESS)
        recurate(room, "a")
        assert "no new or changed shard" in tick(room)


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED])
def test_what_ended_in_vain_is_named_and_requested_again_when_its_file_changes(
    room: Room, status: dg.DagsterRunStatus
) -> None:
    write(room, "a", 1)
    (request,) = tick(room)
    assert isinstance(request, dg.RunRequest)
    run = room.run(request, status)
    assert run.run_id[:8] in tick(room) and status.value in tick(room)
    write(room, "a", 2)
    (again,) = tick(room)
    assert isinstance(again, dg.RunRequest) and again.partition_key == "a"


def test_of_a_shard_that_left_and_of_a_selection_that_failed_only_the_selection_is_made_again(room: Room) -> None:
    for shard in ("a", "b", "c"):
        write(room, shard, 1)
    recurate(room, "abc")
    assert "no new or changed shard" in tick(room)
    (room.profile.home / "artifacts/inputs/toyworld_source/current/twiff/b.parquet").unlink()
    (request,) = tick(room)
    assert isinstance(request, dg.RunRequest) and request.partition_key is None and not range_of(request)
    selected, checks = frozenset(request.asset_selection or ()), frozenset(request.asset_check_keys or ())
    assert {key.to_user_string() for key in selected} == set(SELECT.assets)
    assert {(key.asset_key.to_user_string(), key.name) for key in checks} >= AFTER_SELECTION
    job = room.definitions.resolve_job_def("recurate")
    assert job.get_subset(asset_selection=selected, asset_check_selection=checks).name == "recurate"
    with dg.build_schedule_context(instance=room.instance, resources={"store": room.store}) as context:
        (weekly,) = room.definitions.resolve_schedule_def("recurate_weekly")(context)  # type: ignore[misc]
    assert (weekly.asset_selection, weekly.asset_check_keys) == (request.asset_selection, request.asset_check_keys)
    other = create_run_for_test(room.instance, job_name="05_select", status=dg.DagsterRunStatus.STARTED)
    assert "no new or changed shard" in tick(room), "what runs may be the selection"
    room.instance.report_run_failed(other)
    run = room.run(request, dg.DagsterRunStatus.FAILURE)
    assert run.run_id[:8] in tick(room)
    recurate(room, "ac")
    write(room, "c", 2)
    recurate(room, "c", select=False)  # as a run leaves it that fails afterwards
    (request,) = tick(room)
    assert isinstance(request, dg.RunRequest) and request.asset_selection


def range_of(request: dg.RunRequest) -> Sequence[str]:
    return [name for name in request.tags if name.startswith("dagster/")]


def test_a_vanished_source_is_a_reason_to_skip_and_not_a_failure(place: Place) -> None:
    result = place.tick()
    assert isinstance(result, dg.SkipReason)
    assert str(place.folder / "twiff") in str(result.skip_message)
