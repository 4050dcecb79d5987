"""The sensor `retrain`, tick by tick: what is not made from the current sets is made again, once and in order."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned
from dagster._core.events import DagsterEvent, DagsterEventType, StepMaterializationData
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, InstigatorType
from dagster._core.storage.tags import RUN_KEY_TAG, SENSOR_NAME_TAG
from dagster._core.test_utils import create_run_for_test

from assets.benchmarks.comparison import PARTS
from assets.framework.metadata import COMPARISON
from assets.framework.partitions import PARTITION, RANGE_END
from assets.framework.store import name_of
from evaluation.reports.edges import asset_of
from pipelines.definitions import build_definitions
from pipelines.jobs import SELECT, prepare
from pipelines.profile import demo
from tests.assets.test_lineage_report import Store, table_of

SETS, CHECK = dg.AssetKey(["curation", "sft_sets"]), "sft_rows_can_be_read"
MODELS = ("text_only", "future_l1", "la_dapo")
EVERYTHING = ["06_train_sft", "07_train_rl", "08_evaluate", "09_intervene", "10_compare"]


class Room:
    """A demo's artifacts of the real shape and of no content, and the sensor that looks at them."""

    def __init__(self, home: Path, instance: dg.DagsterInstance) -> None:
        self.profile, self.store, self.instance = demo(home), Store(home), instance
        self.definitions = build_definitions(self.profile)
        self.sensor = self.definitions.resolve_sensor_def("retrain")

    def tick(self) -> Any:
        with dg.build_sensor_context(
            instance=self.instance, definitions=self.definitions, resources={"store": self.store}
        ) as context:
            return self.sensor(context)

    def reason(self) -> str:
        skipped = self.tick()
        assert isinstance(skipped, dg.SkipReason), skipped
        return str(skipped.skip_message)

    def run(self, request: dg.RunRequest, status: dg.DagsterRunStatus) -> dg.DagsterRun:
        """The run that the daemon makes of a request, ended."""
        key = {RUN_KEY_TAG: request.run_key} if request.run_key else {}
        partition = {PARTITION: request.partition_key} if request.partition_key else {}
        tags = {SENSOR_NAME_TAG: "retrain", **request.tags, **key, **partition}
        return create_run_for_test(self.instance, job_name=str(request.job_name), status=status, tags=tags)

    def turn_on(self, sensor: str) -> None:
        location = RegisteredCodeLocationOrigin("future-l1")
        origin = RemoteRepositoryOrigin(location, "__repository__").get_instigator_origin(sensor)
        state = InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING)
        self.instance.add_instigator_state(state)

    def select(self, *row_ids: str, note: str = "") -> None:
        """Publishes everything before the trainings; `note` makes another version of the same sets."""
        for key in prepare(self.profile).assets:
            self.store.made(key, {"file": "digest"}, {})
        curated = self.store.made("curation/future_l1_50k", {"note": f"{row_ids}{note}"}, {})
        rows = [{"row_id": row_id} for row_id in row_ids]
        inputs = {"curation/future_l1_50k": curated}
        self.store.made("curation/sft_sets", inputs, {}, text_only=rows, future_l1=rows)
        self.store.made("curation/rl_sets", inputs, {}, twiff=rows)

    def make(self, request: dg.RunRequest) -> list[str]:
        """Publishes what the run would make; returns the partitions."""
        order: tuple[str, ...] = self.profile.checkpoints.models
        first, last = (request.partition_key or request.tags.get(f"dagster/asset_partition_range_{end}")
                       for end in ("start", "end"))  # fmt: skip
        partitions = order[order.index(first) : order.index(last) + 1] if first and last else ()
        for name in partitions:
            {
                "06_train_sft": self._sft, "07_train_rl": self._rl, "08_evaluate": self._evaluate,
                "09_intervene": self._intervene,
            }[str(request.job_name)](name)  # fmt: skip
        if request.job_name == "10_compare":
            parts = {name: one for name, one in self.store.everything().items() if asset_of(name) in PARTS}
            self.store.made(COMPARISON, parts, {})
        return list(partitions)

    def follow(self) -> list[tuple[str, list[str]]]:
        """All ticks until there is nothing to do: jobs and partitions."""
        made = []
        while isinstance(requests := self.tick(), list):
            made += [(str(request.job_name), self.make(request)) for request in requests]
        return made

    def _set(self, key: str, name: str) -> str:
        return table_of(self.store.current(key), f"{name}.parquet")

    def _sft(self, name: str) -> None:
        data = {f"curation/sft_sets/{name}": self._set("curation/sft_sets", name)}
        self.store.made(
            f"checkpoints/sft/{name}", {"inputs/base_model": self.store.current("inputs/base_model")} | data, {}
        )

    def _rl(self, name: str) -> None:
        start = {"checkpoints/sft/future_l1": self.store.current("checkpoints/sft", "future_l1")}
        self.store.made(
            f"checkpoints/rl/{name}", start | {"curation/rl_sets/twiff": self._set("curation/rl_sets", "twiff")}, {}
        )

    def _evaluate(self, model: str) -> None:
        for benchmark in ("futurebench", "twiffbench"):
            items = {f"inputs/{benchmark}_items": self.store.current(f"inputs/{benchmark}_items")}
            checkpoint = self.store.current(*self.profile.checkpoints.artifact(model))
            answers = f"benchmarks/{benchmark}_answers"
            made = {answers: self.store.made(f"{answers}/{model}", items | {"checkpoint": checkpoint}, {})}
            self.store.made(f"benchmarks/{benchmark}_report/{model}", items | made, {})

    def _intervene(self, model: str) -> None:
        keys = ("benchmarks/futurebench_answers", "benchmarks/twiffbench_answers")
        inputs: Mapping[str, Any] = {key: self.store.current(key, model) for key in keys}
        for key in ("reports/latent_retrieval", "reports/intervened_answers", "reports/latent_necessity"):
            self.store.made(f"{key}/{model}", inputs, {})


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    with dg.instance_for_test() as instance:
        yield Room(tmp_path, instance)


def test_everything_follows_the_sets_in_the_order_of_the_plan(room: Room) -> None:
    assert room.reason().startswith("there is nothing to train on yet: materialise inputs/base_model, ")
    room.select("one", "two")
    assert room.follow() == [
        ("06_train_sft", ["text_only", "future_l1"]),
        ("07_train_rl", ["la_dapo"]),
        ("08_evaluate", ["base", *MODELS]),
        ("09_intervene", ["future_l1", "la_dapo"]),
        ("10_compare", []),
    ]
    assert room.reason() == "every model and every report is made from the current sets"


def test_of_changed_sets_models_and_their_reports_follow_and_the_base_does_not(room: Room) -> None:
    room.select("one", "two")
    room.follow()
    room.select("one", "three")  # whether the sensor was on does not matter: it looks at artifacts
    made = room.follow()
    assert [job for job, _ in made] == EVERYTHING
    assert ("08_evaluate", list(MODELS)) in made


def test_other_versions_of_the_same_sets_train_nothing(room: Room) -> None:
    room.select("one", "two")
    room.follow()
    room.select("one", "two", note="again")
    assert room.follow() == [("10_compare", [])], "the page has the selection's numbers"


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED])
def test_what_ended_in_vain_is_requested_again_when_something_changed(
    room: Room, status: dg.DagsterRunStatus
) -> None:
    room.select("one", "two")
    (first,) = room.tick()
    run = room.run(first, status)
    assert run.run_id[:8] in room.reason() and status.value in room.reason()
    room.select("one", "three")
    (other,) = room.tick()
    assert (other.job_name, other.tags[RANGE_END]) == (first.job_name, first.tags[RANGE_END])
    room.select("one", "two")
    assert run.run_id[:8] in room.reason(), "the sets are those of the failed run"


def test_sets_that_are_current_once_more_are_trained_on_again(room: Room) -> None:
    for rows in (("one", "two"), ("one", "three")) * 2:  # as after a selection with other settings, and without them
        room.select(*rows)
        (sft,) = room.tick()
        assert sft.job_name == "06_train_sft" and sft.run_key is None, "Dagster makes one run for a key, ever"
        room.run(sft, dg.DagsterRunStatus.SUCCESS)
        room.make(sft)


def test_it_waits_while_new_shards_will_curate_a_shard(room: Room) -> None:
    room.select("one", "two")
    folder = room.profile.home / "artifacts" / "inputs" / "toyworld_source" / "current" / "twiff"
    folder.mkdir(parents=True)
    pl.DataFrame({"row": [1]}).write_parquet(folder / "a.parquet")
    (first,) = room.tick()
    assert first.job_name == "06_train_sft", "nobody will curate it"
    room.turn_on("new_shards")
    assert room.reason() == "waits until new_shards has curated new and changed shards"
    with dg.build_sensor_context(instance=room.instance, resources={"store": room.store}) as context:
        (shard,) = room.definitions.resolve_sensor_def("new_shards")(context)  # type: ignore[misc]
    room.run(shard, dg.DagsterRunStatus.FAILURE)
    assert room.tick() == [first], "it failed, and is not requested again"


def test_it_waits_for_runs_and_for_blocking_checks(room: Room) -> None:
    room.select("one", "two")
    run = create_run_for_test(room.instance, job_name="recurate", status=dg.DagsterRunStatus.NOT_STARTED)
    assert room.reason() == f"waits for run {run.run_id[:8]} of recurate"
    room.instance.report_run_failed(run)
    for passed in (False, True):
        result = dg.AssetCheckEvaluation(SETS, CHECK, passed=passed, metadata={}, blocking=True)
        room.instance.report_runless_asset_event(result)
        if not passed:
            assert room.reason() == f"waits until these checks pass: {CHECK} of curation/sft_sets"
    assert [request.job_name for request in room.tick()] == ["06_train_sft"]


def test_it_waits_for_a_blocking_check_that_the_run_of_its_asset_did_not_come_to(room: Room) -> None:
    room.select("one", "two")
    planned = AssetCheckEvaluationPlanned(asset_key=SETS, check_name=CHECK)
    materialised = StepMaterializationData(dg.AssetMaterialization(SETS))
    for made in (False, True):
        run = create_run_for_test(room.instance, job_name="05_select", status=dg.DagsterRunStatus.STARTED)
        events: dict[DagsterEventType, Any] = {DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED: planned}
        if made:
            events[DagsterEventType.ASSET_MATERIALIZATION] = materialised
        for kind, data in events.items():
            event = DagsterEvent(kind.value, "05_select", event_specific_data=data)
            room.instance.report_dagster_event(event, run.run_id)
        room.instance.report_run_canceled(run)
        if not made:
            assert isinstance(room.tick(), list), "it is about what another run made"
    assert room.reason() == f"waits until these checks pass: {CHECK} of curation/sft_sets"


def test_a_model_is_trained_on_the_current_sets_until_they_change(room: Room) -> None:
    checks = ("checkpoints/sft", "checkpoints/rl", "reports/comparison")

    def results() -> dict[str, tuple[bool, str]]:
        selection = dg.AssetSelection.checks(
            *(dg.AssetCheckKey(dg.AssetKey(key.split("/")), "trained_on_current_sets") for key in checks)
        )
        job = dg.Definitions(
            asset_checks=room.definitions.asset_checks, resources=room.definitions.resources,
            jobs=[dg.define_asset_job("checks", selection)],
        ).resolve_job_def("checks")  # fmt: skip
        ran = job.execute_in_process(instance=room.instance)
        evaluations = ran.get_asset_check_evaluations()
        assert {one.severity for one in evaluations} == {dg.AssetCheckSeverity.WARN}
        return {one.asset_key.to_user_string(): (one.passed, str(one.description)) for one in evaluations}

    room.select("one", "two")
    assert results()["checkpoints/sft"] == (True, "trained on the current sets: no model yet")
    room.follow()
    assert {passed for passed, _ in results().values()} == {True}
    room.select("one", "three")
    changed = results()
    assert {passed for passed, _ in changed.values()} == {False}
    assert (
        "text_only was trained with an earlier curation/sft_sets/text_only; future_l1" in changed["checkpoints/sft"][1]
    )
    assert changed["checkpoints/rl"][1].startswith(
        "la_dapo was trained with an earlier curation/rl_sets/twiff and curation/sft_sets/future_l1: materialise "
    )
    for job, made in [(request.job_name, room.make(request)) for request in room.tick()]:
        assert job == "06_train_sft" and made
    assert results()["checkpoints/sft"][0]
    assert "checkpoints/sft/future_l1" in results()["checkpoints/rl"][1], "RL started from another model"


def test_the_selection_comes_before_what_the_sensor_makes(room: Room) -> None:
    targets = {target.job_name for target in room.sensor.targets}
    assert targets == set(EVERYTHING)
    assert not targets & {SELECT.job, "recurate"} and name_of("checkpoints/sft", "text_only")
