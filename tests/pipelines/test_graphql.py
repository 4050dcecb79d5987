"""What the UI shows and does, by the webserver's GraphQL in this process: no socket, no browser."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from starlette.testclient import TestClient

from pipelines.definitions import build_definitions
from pipelines.instance import dagster_home
from pipelines.jobs import stages
from pipelines.profile import Profile, load_profile
from pipelines.webserver import application
from tests.pipelines.ui_server import Dagster, everything_ended
from tests.reduced import write_reduced_overlay
from training.runtime.project import PROJECT, WORKSPACE

NODES = """{assetNodes {
    assetKey {path} groupName kinds pools description owners {... on TeamAssetOwner {team}}
    partitionDefinition {name type} partitionKeys jobNames isExecutable
}}"""
SELECTOR = 'repositoryLocationName: "future-l1", repositoryName: "__repository__"'
JOBS = f"""{{repositoryOrError(repositorySelector: {{{SELECTOR}}}) {{...stages}}}}
fragment stages on Repository {{
    jobs {{name description}}
    schedules {{name cronSchedule scheduleState {{status}}}} sensors {{name sensorState {{status}}}}
}}"""
CHECKS = """{assetNodes {assetKey {path} assetChecksOrError {
    ... on AssetChecks {checks {name description blocking}}}}}"""


class Web(Dagster):
    """A webserver's application in this process, and the queue of runs that a daemon would empty."""

    def __init__(self, context: WorkspaceProcessContext) -> None:
        self.context = context
        client = TestClient(application(context, "127.0.0.1"), base_url="http://127.0.0.1")
        super().__init__(lambda body: client.post("/graphql", json=body).json())

    def start_queued_runs(self) -> None:
        """One round of what the daemon does every few seconds."""
        list(QueuedRunCoordinatorDaemon(interval_seconds=1).run_iteration(self.context))


@contextmanager
def webserver(instance: dg.DagsterInstance, read_only: bool = False) -> Iterator[Web]:
    workspace = WorkspaceFileTarget([str(WORKSPACE)])
    with WorkspaceProcessContext(instance, workspace, read_only=read_only) as context:
        yield Web(context)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home that the environment names, as it does for `future-l1`."""
    folder = tmp_path_factory.mktemp("graphql")
    profile = write_reduced_overlay(folder / "reduced.toml")
    with pytest.MonkeyPatch.context() as patch, everything_ended(folder):
        patch.setenv("FUTURE_L1_HOME", str(folder))
        patch.setenv("FUTURE_L1_PROFILE", str(profile))
        patch.delenv("FUTURE_L1_WEBHOOK", raising=False)  # it turns the alert on
        patch.setenv("DAGSTER_HOME", "")  # what `dagster_home` sets goes with the module
        patch.chdir(PROJECT)
        dagster_home(folder)
        yield folder


@pytest.fixture(scope="module")
def profile(home: Path) -> Profile:
    return load_profile(os.environ["FUTURE_L1_PROFILE"], home)


@pytest.fixture(scope="module")
def web(home: Path) -> Iterator[Web]:
    with dg.DagsterInstance.get() as instance, webserver(instance) as web:
        yield web


@pytest.fixture(scope="module")
def nodes(web: Web) -> dict[str, dict[str, Any]]:
    return {"/".join(node["assetKey"]["path"]): node for node in web.query(NODES)["assetNodes"]}


def test_every_asset_is_shown_with_what_a_person_needs_to_know_of_it(
    profile: Profile, nodes: dict[str, dict[str, Any]]
) -> None:
    graph = build_definitions(profile).resolve_asset_graph()
    assert set(nodes) == {node.key.to_user_string() for node in graph.asset_nodes}
    for defined in graph.asset_nodes:
        node = nodes[defined.key.to_user_string()]
        assert node["groupName"] == defined.group_name
        assert set(node["kinds"]) == defined.kinds
        assert set(node["pools"]) == defined.pools
        assert {f"team:{owner['team']}" for owner in node["owners"]} == set(defined.owners)
        assert node["description"] == defined.description
        assert node["jobNames"], f"{defined.key} is in no job"


def test_trainings_wait_for_the_gpu_pool_and_are_cut_by_recipe(profile: Profile, nodes: dict[str, Any]) -> None:
    assert nodes["checkpoints/sft"]["pools"] == nodes["checkpoints/rl"]["pools"] == ["gpu"]
    assert nodes["checkpoints/sft"]["partitionKeys"] == list(profile.checkpoints.sft) == ["text_only", "future_l1"]
    assert nodes["benchmarks/futurebench_report"]["partitionKeys"] == ["base", "text_only", "future_l1", "la_dapo"]
    assert nodes["trajectories/twiff_clips"]["partitionDefinition"] == {"name": "twiff_shards", "type": "DYNAMIC"}
    assert nodes["curation/future_l1_50k"]["partitionDefinition"] is None


def test_there_is_a_job_for_each_stage_and_nothing_starts_before_somebody_turns_it_on(
    web: Web, profile: Profile
) -> None:
    repository = web.query(JOBS)["repositoryOrError"]
    described = {job["name"]: job["description"] for job in repository["jobs"]}
    assert {stage.job for stage in stages(profile)} <= set(described)
    assert all(described[stage.job] for stage in stages(profile))
    (weekly,) = repository["schedules"]
    assert (weekly["name"], weekly["cronSchedule"]) == ("recurate_weekly", "0 4 * * 1")
    assert weekly["scheduleState"]["status"] == "STOPPED"
    states = {sensor["name"]: sensor["sensorState"]["status"] for sensor in repository["sensors"]}
    assert {"new_shards", "failed_runs"} <= set(states)
    assert set(states.values()) == {"STOPPED"}


def test_every_check_reads_as_a_sentence(web: Web, profile: Profile) -> None:
    checks = {
        ("/".join(node["assetKey"]["path"]), check["name"]): check
        for node in web.query(CHECKS)["assetNodes"]
        for check in node["assetChecksOrError"].get("checks", [])
    }
    defined = build_definitions(profile).resolve_asset_graph().asset_check_keys
    assert set(checks) == {(key.asset_key.to_user_string(), key.name) for key in defined}
    for key, check in checks.items():
        text = check["description"]
        assert text and text[0].isupper() and text.endswith(".") and len(text.split()) >= 5, (key, text)
    assert checks["checkpoints/sft", "loads_and_decodes"]["blocking"]


def test_a_read_only_webserver_refuses_mutations(web: Web) -> None:
    before = web.runs()
    instance = web.context.instance
    with webserver(instance, read_only=True) as viewer:
        assert len(viewer.query(NODES)["assetNodes"]) > 15
        with pytest.raises(AssertionError, match="UnauthorizedError"):
            viewer.launch("01_list_source")
        with pytest.raises(AssertionError, match="UnauthorizedError"):
            viewer.backfill(["trajectories/twiff_clips"], ["any"])
        start = f'mutation {{startSensor(sensorSelector: {{{SELECTOR}, sensorName: "new_shards"}}) {{__typename}}}}'
        assert viewer.query(start)["startSensor"]["__typename"] == "UnauthorizedError"
        assert viewer.runs() == before


def test_a_launched_job_is_queued_started_and_materialises(web: Web, nodes: dict[str, Any]) -> None:
    run = web.launch("00_write_source")
    assert web.status(run) == "QUEUED"
    web.start_queued_runs()
    assert web.finished(run) == "SUCCESS", web.errors(run)
    query = """{assetNodeOrError(assetKey: {path: ["inputs", "toyworld_source"]}) {... on AssetNode {
        assetMaterializations(limit: 1) {runId metadataEntries {label __typename ... on IntMetadataEntry {intValue}}}
    }}}"""
    (materialised,) = web.query(query)["assetNodeOrError"]["assetMaterializations"]
    figures = {entry["label"]: entry.get("intValue") for entry in materialised["metadataEntries"]}
    assert materialised["runId"] == run
    assert figures["rows"] == 180
    assert {"folder", "version", "provenance", "seconds"} <= set(figures)
