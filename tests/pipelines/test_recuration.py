"""Schedule and sensor, tick by tick: new and changed shards are curated once, and no others."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from assets.framework.partitions import SHARDS
from pipelines.cli.curate import curation_profile
from pipelines.definitions import build_definitions
from pipelines.profile import Profile, overlaid, paper
from tests.pipelines.served_shards import Model, judge, write_shards
from tests.served import Served, served


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
        """Runs what was asked for; returns the shards that were materialised as answers."""
        ran = self.definitions.resolve_job_def("recurate").execute_in_process(
            instance=self.instance, partition_key=request.partition_key, tags=dict(request.tags), raise_on_error=True
        )
        assert ran.success
        materialised = ran.asset_materializations_for_node("curation__gain_answers")
        assert {e.asset_key.to_user_string() for e in ran.get_asset_materialization_events()} >= {
            "curation/future_l1_50k", "curation/sft_sets", "trajectories/twiff_rows",
        }  # fmt: skip
        checks = {(e.asset_key.to_user_string(), e.check_name) for e in ran.get_asset_check_evaluations()}
        assert checks >= {(key, "trained_on_current_sets") for key in ("checkpoints/sft", "reports/comparison")}
        return {str(event.partition) for event in materialised}


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
    assert request.run_key == same.run_key, "one run for the same files"
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
    assert {request.run_key for request in monday}.isdisjoint({request.run_key})


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED])
def test_shards_of_a_run_that_has_not_ended_are_left_to_it(place: Place, status: dg.DagsterRunStatus) -> None:
    for seed in (1, 2, 3):
        place.add(seed)
    (request,) = place.tick()  # type: ignore[misc]
    tags = {"dagster/asset_partition_range_start": "part-1-0", "dagster/asset_partition_range_end": "part-2-0"}
    run = create_run_for_test(place.instance, job_name="recurate", status=status, tags=tags)
    for requests in (place.tick(), place.weekly(23)):
        assert [request.partition_key for request in requests] == ["part-3-0"]  # type: ignore[union-attr]
    create_run_for_test(place.instance, job_name="recurate", status=status, tags={"dagster/partition": "part-3-0"})
    for reason in (place.tick(), place.weekly(23)):
        assert isinstance(reason, dg.SkipReason) and "besides the 3 that are curated now" in str(reason.skip_message)
    place.instance.report_run_failed(run)
    (monday,) = place.weekly(30)  # type: ignore[misc]
    assert monday.tags == request.tags | tags, "what failed is requested again"


def test_a_vanished_source_is_a_reason_to_skip_and_not_a_failure(place: Place) -> None:
    result = place.tick()
    assert isinstance(result, dg.SkipReason)
    assert str(place.folder / "twiff") in str(result.skip_message)
