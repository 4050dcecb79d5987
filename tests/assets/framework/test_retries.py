"""Transient errors are retried, on servers that really fail twice and then work; all other errors are not."""

import shutil
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from assets.curation.assets import ANSWERS
from assets.curation.scored import GAIN
from assets.curation.set_assets import DATASET_HUB
from assets.framework.define import Asset, asset
from assets.framework.partitions import SHARDS
from assets.framework.retries import INTERRUPTED, MAX_RETRIES, is_transient, retry_on_outage
from assets.framework.store import AssetStore
from assets.hub import HubSettings
from assets.trajectories.assets import TRAJECTORIES
from assets.trajectories.shards import DamagedFileError
from pipelines.definitions import build_definitions
from pipelines.profile import Profile, demo, overlaid
from tests import hub
from tests.assets.trajectories.shard_rows import twiff_row, write
from tests.footage import FOOTAGE
from tests.loopback import file_server
from tests.pipelines.served_shards import Model, judge, write_shards
from tests.served import Served, served
from training.chat.endpoint import EndpointDownError, EndpointRefusesError

OUTAGE = 3
"""So many failures in a row are an outage, where one request is in flight at a time (training.chat.endpoint)."""
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits half a minute here; and a hub that is busy is not asked again by its client."""
    monkeypatch.setattr("assets.framework.retries.RETRY_DELAY", 0.01)
    monkeypatch.setattr("assets.trajectories.hub.WAITS", ())


class Runs:
    """Jobs of a profile in this process."""

    def __init__(self, profile: Profile) -> None:
        self.store, self.definitions = AssetStore(profile.home), build_definitions(profile)
        self.instance = dg.DagsterInstance.ephemeral()

    def run(self, job: str) -> tuple[bool, Counter[str]]:
        """Whether it succeeded, and how often each step was started over."""
        shards = self.instance.get_dynamic_partitions(str(SHARDS.name))
        result = self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance, run_config=QUIET, raise_on_error=False,
            partition_key=shards[0] if shards and job in ("03_ingest", "04_score") else None,
        )  # fmt: skip
        again = [event.step_key for event in result.all_events if event.event_type_value == "STEP_UP_FOR_RETRY"]
        return result.success, Counter(again)


def sourced(folder: Path, trajectories: Path | str, **curation: Any) -> Profile:
    return overlaid(
        demo(folder / "home").model_copy(update={"toyworld": None}),
        {"source": {"trajectories": trajectories, "clips": (folder / "clips",)}, "curation": curation},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One shard of one row with its clip."""
    for name in ("twiff", "clips"):
        (tmp_path / name).mkdir()
    shutil.copy(FOOTAGE / "carphone_pristine.mp4", tmp_path / "clips" / "AAAAAAAAAAA_0.mp4")
    write(tmp_path / "twiff" / "part.parquet", [twiff_row()])
    return tmp_path


def test_a_shard_on_a_server_that_fails_twice_is_pulled_at_the_third_try(folder: Path) -> None:
    with file_server(folder / "twiff") as server:
        runs = Runs(sourced(folder, f"{server.url}/part.parquet"))
        assert runs.run("01_list_source") == (True, Counter())
        server.failing = 2
        assert runs.run("03_ingest") == (True, Counter({"trajectories__twiff_rows": 2}))
        assert server.failing == 0 and runs.store.current(TRAJECTORIES, "part").provenance["counts"]["rows"] == 1


def test_retries_of_a_server_that_stays_away_end(folder: Path) -> None:
    with file_server(folder / "twiff") as server:
        runs = Runs(sourced(folder, f"{server.url}/part.parquet"))
        runs.run("01_list_source")
        server.failing = 1000
        server.requests.clear()
        assert runs.run("03_ingest") == (False, Counter({"trajectories__twiff_rows": MAX_RETRIES}))
        assert len(server.requests) >= MAX_RETRIES + 1


def test_a_hub_that_is_busy_twice_is_pulled_from_at_the_third_try(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub.serve(folder / "hub") as there:
        monkeypatch.setenv("HF_ENDPOINT", there.url)
        there.commit("lab/twiff", folder / "twiff")
        runs = Runs(sourced(folder, "hf://datasets/lab/twiff@main"))
        assert runs.run("01_list_source")[0]
        there.busy = 2
        assert runs.run("03_ingest") == (True, Counter({"trajectories__twiff_rows": 2}))


def test_a_local_shard_that_is_no_shard_is_read_once(folder: Path) -> None:
    (folder / "twiff" / "part.parquet").write_bytes(b"not parquet")
    runs = Runs(sourced(folder, folder / "twiff"))
    runs.run("01_list_source")
    assert runs.run("03_ingest") == (False, Counter())


def test_a_shard_on_a_server_that_is_no_shard_is_pulled_once(folder: Path) -> None:
    (folder / "twiff" / "part.parquet").write_bytes(b"not parquet")
    with file_server(folder / "twiff") as server:
        runs = Runs(sourced(folder, f"{server.url}/part.parquet"))
        runs.run("01_list_source")
        assert runs.run("03_ingest") == (False, Counter())


def test_nobody_pushes_again_without_a_token(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    hub_settings = HubSettings(dataset="lab/set", dataset_license="cc-by-4.0")
    runs = Runs(sourced(folder, folder / "twiff").model_copy(update={"hub": hub_settings}))
    runs.store.work("curation/future_l1_50k", {}, {}, "code").do(lambda workspace: {})
    assert runs.run("publish") == (False, Counter())
    assert DATASET_HUB in {node.key.to_user_string() for node in runs.definitions.resolve_asset_graph().asset_nodes}


def test_nothing_is_pushed_together_with_other_assets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    hub_settings = HubSettings(dataset="lab/set", dataset_license="cc-by-4.0")
    runs = Runs(sourced(folder, folder / "twiff").model_copy(update={"hub": hub_settings}))
    runs.store.work("curation/future_l1_50k", {}, {}, "code").do(lambda workspace: {})
    pushed = dg.AssetKey(DATASET_HUB.split("/"))
    errors = []
    for number, keys in enumerate(([dg.AssetKey(["curation", "future_l1_50k"]), pushed], [pushed])):
        tags = {"dagster/backfill": f"backfill-{number}"}
        backfill = PartitionBackfill(*tags.values(), BulkActionStatus.REQUESTED, False, {}, 0.0, asset_selection=keys)
        runs.instance.add_backfill(backfill)
        ran = runs.definitions.resolve_job_def("publish").execute_in_process(
            instance=runs.instance, run_config=QUIET, raise_on_error=False, tags=tags
        )
        errors += [str(event.step_failure_data.user_failure_data) for event in ran.all_events if event.is_step_failure]
    together, alone = errors
    assert "nothing is pushed together with other assets: materialise this one by itself" in together
    assert "needs a token" in alone


class Scored:
    """Shards, and a served model and a judge that fail on demand."""

    def __init__(self, folder: Path, endpoint: Served, judging: Served, **asking: Any) -> None:
        self.failing = {"endpoint": 0, "judge": 0}
        for name, server in (("endpoint", endpoint), ("judge", judging)):
            server.script = partial(self._fault, name)
        serving = {"model": "served", "concurrency": 1, "retries": 0, **asking}
        profile = overlaid(
            sourced(folder, folder / "twiff"),
            {
                "source": {"quarantine_limit": 1.0},
                "curation": {
                    "endpoint": {"base_urls": (endpoint.url,), **serving},
                    "answers": {"samples": 2},
                    "parser": "strict",
                    "disjoint_from": (),
                    "selection": {"max_p_t": 1, "min_gain": 1},
                },
                "judge": {"base_url": judging.url, **(serving | {"model": "served"})},
                "toy_judge": False,
            },
        )
        self.replies = profile.home / "judge" / "curation" / "visual_gain" / "part-4-0.jsonl"
        self.runs = Runs(profile)
        for job in ("01_list_source", "03_ingest"):
            assert self.runs.run(job)[0]

    def _fault(self, name: str, number: int, request: dict[str, Any]) -> tuple[int, bytes] | None:
        if not self.failing[name]:
            return None
        self.failing[name] -= 1
        return 500, b'{"error": {"message": "oops"}}'


def test_outages_of_the_model_and_of_the_judge_pass_and_nothing_is_paid_twice(tmp_path: Path) -> None:
    rows = write_shards(tmp_path, shards=1, rows=8, faults=0, seed=4)  # five are open questions: a judge's
    with served(Model(rows)) as endpoint, served(judge) as judging:
        scored = Scored(tmp_path, endpoint, judging)
        scored.failing["endpoint"] = 2 * OUTAGE
        assert scored.runs.run("04_score") == (True, Counter({"curation__gain_answers": 2}))
        answers = scored.runs.store.everything()[f"{ANSWERS}/part-4-0"]
        assert endpoint.choices == answers.provenance["counts"]["answers"]
        before = scored.runs.store.everything()[f"{GAIN}/part-4-0"].version
        assert scored.replies.stat().st_size > 0
        scored.replies.unlink()
        scored.failing["judge"] = 2 * OUTAGE
        assert scored.runs.run("04_score") == (True, Counter({"curation__visual_gain": 2}))
        assert scored.runs.store.everything()[f"{GAIN}/part-4-0"].version == before


def test_a_program_that_crashes_is_started_once(tmp_path: Path) -> None:
    rows = write_shards(tmp_path, shards=1, rows=8, faults=0, seed=4)
    with served(Model(rows)) as endpoint, served(judge) as judging:
        scored = Scored(tmp_path, endpoint, judging)
        library = tmp_path / "broken" / "openai.py"
        library.parent.mkdir()
        library.write_text("raise RuntimeError('a broken library')")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(library.parent))
            assert scored.runs.run("04_score") == (False, Counter())
        assert endpoint.requests == []


def test_a_model_that_the_endpoint_does_not_have_is_requested_once(tmp_path: Path) -> None:
    rows = write_shards(tmp_path, shards=1, rows=6, faults=0)
    with served(Model(rows)) as endpoint, served(judge) as judging:
        scored = Scored(tmp_path, endpoint, judging, model="another")
        assert scored.runs.run("04_score") == (False, Counter())
        assert endpoint.requests == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, dg.DagsterExecutionInterruptedError])
def test_an_interrupt_is_no_outage(error: type[BaseException]) -> None:
    @asset(Asset("inputs/twiff_source", "Ends early.", kinds=(), retry_policy=retry_on_outage(), code_version="1"))
    def interrupted() -> None:
        raise error

    ran = dg.materialize([interrupted], instance=dg.DagsterInstance.ephemeral(), raise_on_error=False)
    assert not ran.success and not [event for event in ran.all_events if event.is_step_up_for_retry]
    (failure,) = (event.step_failure_data for event in ran.all_events if event.is_step_failure)
    assert failure.user_failure_data and failure.user_failure_data.description == INTERRUPTED


class _ForbiddenError(Exception):
    """As fsspec's HTTP file system raises it."""

    status = 403


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ConnectionResetError("by peer"), True),
        (TimeoutError("30 s"), True),
        (EndpointDownError("gone"), True),
        (DamagedFileError("cut"), True),
        (EndpointRefusesError("its key"), False),
        (FileNotFoundError("no such file"), False),
        (PermissionError("not yours"), False),
        (_ForbiddenError("forbidden"), False),
        (ValueError("top"), False),
        (KeyError("a defect"), False),
    ],
)
def test_only_an_outage_is_transient(error: Exception, passes: bool) -> None:
    assert is_transient(error) is passes
