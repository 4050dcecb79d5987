"""The same programs as jobs of a Ray cluster; the cluster is real, of two nodes on this machine."""

import json
import os
import re
import shlex
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import polars as pl
import psutil
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from assets.curation.assets import ANSWERS
from assets.framework.store import AssetStore
from assets.launching.backend import Deadlines, Program
from assets.launching.launcher import LaunchSettings, backend_for
from assets.launching.ray import LEASE, RaySettings, submission
from assets.launching.ray_nodes import Parts
from pipelines.driver import run_plan
from pipelines.jobs import INGEST, LIST_SOURCE, PREPARE, WRITE_SOURCE, Step, score
from pipelines.profile import overlaid
from tests.assets.launching.counting import PROGRAM
from tests.assets.launching.ray_cluster import ray_cluster
from tests.assets.launching.steps import counting, interrupt, run, start_step, working_in
from tests.evaluation.jobs import UNTIMED
from tests.processes import until
from tests.reduced import reduced_demo
from tests.toy import sft_recipe
from training.runtime.launch import Start
from training.runtime.programs import Reporter
from training.runtime.project import PROJECT
from training.sft.__main__ import SftConfig, main
from training.tiny import BASE

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

CANARY = "sk-canary-0f1e2d"
TOKEN = "canary-token-3c4b5a69788796a5"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The cluster's address; this process's environment has secrets, the cluster's has none."""
    with ray_cluster(TOKEN) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        patch.setenv("FUTURE_L1_JUDGE_API_KEY", CANARY)
        patch.setenv("PYTHONPATH", str(PROJECT))
        yield address


@pytest.fixture
def client(address: str) -> "JobSubmissionClient":
    from ray.job_submission import JobSubmissionClient

    return JobSubmissionClient(address)


def launch(address: str, **changes: Any) -> LaunchSettings:
    return LaunchSettings(
        **{"backend": RaySettings(address=address), "sigint_grace": 20, "sigterm_grace": 5, **changes}
    )


def jobs_below(client: "JobSubmissionClient", folder: Path) -> "list[JobDetails]":
    """The jobs of programs whose working folders lie there."""
    return [job for job in client.list_jobs() if str((job.metadata or {}).get("future_l1_out")).startswith(str(folder))]


def test_shards_have_the_answers_that_this_machine_gives(
    address: str, client: "JobSubmissionClient", tmp_path: Path, fork_server: dict[str, str]
) -> None:
    """A job for each, each on a node of its own; here they are forks."""
    sizes = {"shards": 2, "rows_per_shard": 30, "futurebench_per_split": 1, "twiffbench": 1}
    here = overlaid(reduced_demo(tmp_path / "here"), {"toyworld": sizes})
    shards = ("train-00000-of-00002", "train-00001-of-00002")
    steps = [Step(WRITE_SOURCE), Step(LIST_SOURCE), Step(PREPARE, only=("inputs/base_model",)), Step(INGEST, shards)]
    run_plan(here, steps, Console(quiet=True))
    shutil.copytree(here.home, tmp_path / "there", symlinks=True)
    parallel = launch(address, max_parallel={"evaluation.generate": 2})
    there = here.model_copy(update={"home": tmp_path / "there", "launch": parallel})
    tables = []
    for profile, variables in ((here, fork_server), (there, {})):
        with patch.dict(os.environ, variables):
            run_plan(profile, [Step(score(profile), shards, only=(ANSWERS,))], Console(quiet=True))
        answers = [AssetStore(profile.home).current(ANSWERS, shard).path / "answers.parquet" for shard in shards]
        tables.append(pl.read_parquet(answers).select(UNTIMED))
    assert tables[0].height > 0
    assert tables[0].equals(tables[1])
    assert len({job.driver_node_id for job in jobs_below(client, tmp_path / "there")}) == 2


def test_two_nodes_train_are_cancelled_and_go_on_as_one_process_does(
    address: str, client: "JobSubmissionClient", data: Path, tmp_path: Path
) -> None:
    settings = launch(address, num_processes={"training.sft": 2}, nodes={"training.sft": 2})
    recipe = sft_recipe(max_steps=40, global_batch_size=2, save_steps=2)
    alone = SftConfig(out=tmp_path / "alone", device="cpu", recipe=recipe, data=data, base=BASE)
    training = Start("training.sft", tmp_path / "out", alone.model_dump(mode="json", exclude={"out"}))

    step = start_step(settings, training)
    checkpoint = training.out / "steps" / "checkpoint-2" / "trainer_state.json"
    until(checkpoint.exists, "the first checkpoint", process=step)
    (job,) = jobs_below(client, training.out)
    launchers = [line for line in working_in(training.out) if "accelerate.commands.launch" in line[:3]]
    assert {line[line.index("--machine_rank") + 1] for line in launchers} == {"0", "1"}
    interrupt(step)
    assert working_in(training.out) == []
    assert client.get_job_status(str(job.submission_id)) == "STOPPED"
    assert not (training.out / "result.json").exists()

    (result,) = run(settings, training).results
    assert result["steps"] == 40 and result["resumed_from"] is not None
    provenance = json.loads((training.out / "checkpoint" / "provenance.json").read_text())
    assert provenance["processes"] == 2
    alone.out.mkdir()
    main(alone, Reporter(alone.out))
    expected, weights = (load_file(out / "checkpoint" / "model.safetensors") for out in (alone.out, training.out))
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, atol=1e-4, rtol=0)  # 40 steps of Adam amplify rounding


def test_when_one_node_fails_the_other_is_ended_and_the_next_start_goes_on(address: str, tmp_path: Path) -> None:
    """The second node's process is killed as for want of memory."""
    pids = tmp_path / "pids"
    settings = launch(address, num_processes={PROGRAM: 2}, nodes={PROGRAM: 2}, sigint_grace=1, sigterm_grace=1)
    failure = run(settings, counting(tmp_path / "out", "run out of memory", pids=str(pids))).failure
    assert re.search(r"\nnode 1 \(127\.0\.0\.[23]\) ended with status 1, the first of 2$", failure)
    assert "Signal 9 (SIGKILL)" in failure
    assert not any(psutil.pid_exists(int(pid)) for pid in pids.read_text().split())
    (result,) = run(settings, counting(tmp_path / "out")).results
    assert result["resumed_from"] == 2


def test_a_job_outlives_a_killed_step_and_ends_when_its_program_is_started_again(
    address: str, client: "JobSubmissionClient", tmp_path: Path
) -> None:
    """One program runs and one waits for two GPUs, which no node of this cluster has."""
    runs, waits = counting(tmp_path / "runs", "wait"), counting(tmp_path / "waits", device="auto")
    settings = launch(address, backend=RaySettings(address=address, gpus=2))

    step = start_step(settings, runs, waits)
    count = runs.out / "count"
    until(lambda: count.exists() and count.read_text() == "2", "the program has counted to two", process=step)
    orphans = working_in(tmp_path)
    assert len(orphans) == 2, "a program and its supervisor"
    step.kill()
    step.wait()
    assert working_in(tmp_path) == orphans

    step = start_step(settings, runs, waits)
    until((runs.out / "result.json").exists, "the program's result", process=step)
    assert json.loads((runs.out / "result.json").read_text())["resumed_from"] == 2
    interrupt(step)
    assert working_in(tmp_path) == []
    jobs = [(str((job.metadata or {}).get("future_l1_out")), str(job.status)) for job in client.list_jobs()]
    assert sum(out == str(runs.out) and status in ("STOPPED", "SUCCEEDED") for out, status in jobs) == 2
    assert sum(out == str(waits.out) and status == "PENDING" for out, status in jobs) == 2
    assert not (waits.out / LEASE).exists(), "so the waiting jobs will not start their programs"


def test_a_failed_program_is_named_and_no_submission_has_a_secret(
    address: str, client: "JobSubmissionClient", tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    starts = [counting(tmp_path / behaviour, behaviour, device="auto") for behaviour in ("go on", "fail")]
    failure = run(launch(address, environment={"ADDED": "here"}), *starts).failure
    assert f"ended with status 1 in {tmp_path / 'fail'}" in failure
    assert "the third number is broken" in failure
    logged = f"- checkpoint - {PROGRAM} on auto in {tmp_path / 'go on'}"
    assert logged in capfd.readouterr().err, "logged through Pipes"
    result = json.loads((tmp_path / "go on" / "result.json").read_text())
    assert result["environment"] == {"ADDED": "here", "FUTURE_L1_JUDGE_API_KEY": None}, "no key was sent"
    assert result["devices"]["CUDA_VISIBLE_DEVICES"] == "0", "the only one of its node"
    assert len({job.driver_node_id for job in jobs_below(client, tmp_path)}) == 2
    submitted = "\n".join(str(job) for job in client.list_jobs())
    assert str(tmp_path / "go on") in submitted
    assert CANARY not in submitted and TOKEN not in submitted


def test_a_config_that_is_refused_is_not_tried_again(address: str, tmp_path: Path) -> None:
    step = run(launch(address), counting(tmp_path, unknown=1), retries=2)
    assert "unknown" in step.failure and "status 2" in step.failure
    assert step.tries == 1


def test_a_submission_requests_what_the_programs_processes_need(tmp_path: Path) -> None:
    settings = RaySettings(python="/opt/env/bin/python", cpus=4, memory_gib=1.5, resources={"h100": 1})
    program = Program("training.rl", tmp_path / "a b", ["-m", "training.rl"], 8, True, {"ADDED": "here"})
    job = submission(settings, Deadlines(120, 15), program, "job-1", {"DAGSTER_PIPES_CONTEXT": "context"})
    assert job["entrypoint"] == (
        f"grep -qx job-1 '{tmp_path}/a b/{LEASE}' && cd {PROJECT} && "
        "exec /opt/env/bin/python -m training.runtime.supervisor 120 15 /opt/env/bin/python -m training.rl"
    )
    assert (job["entrypoint_num_gpus"], job["entrypoint_num_cpus"]) == (8, 32)
    assert (job["entrypoint_memory"], job["entrypoint_resources"]) == (12 * 2**30, {"h100": 1})
    variables = job["runtime_env"]["env_vars"]
    assert (variables["RAY_JOB_STOP_SIGNAL"], variables["RAY_JOB_STOP_WAIT_TIME_S"]) == ("SIGINT", "150")
    assert (variables["ADDED"], variables["DAGSTER_PIPES_CONTEXT"]) == ("here", "context")
    assert variables["OMP_NUM_THREADS"] == "4"


def test_a_program_on_several_nodes_requests_its_part_of_each(tmp_path: Path) -> None:
    settings = RaySettings(python="/opt/env/bin/python", cpus=4, memory_gib=1.5, resources={"h100": 1})
    program = Program("training.rl", tmp_path, ["-m", "training.rl"], 16, True, {}, nodes=2)
    job = submission(settings, Deadlines(120, 15), program, "job-1", {})
    words = shlex.split(job["entrypoint"])
    assert words[-4:-1] == ["/opt/env/bin/python", "-m", "assets.launching.ray_nodes"]
    parts = Parts(**json.loads(words[-1]))
    assert (parts.nodes, parts.bundle) == (2, {"CPU": 32, "GPU": 8, "memory": 12 * 2**30, "h100": 1})
    assert parts.command[:3] == ["/opt/env/bin/python", "-m", "training.runtime.supervisor"]
    needs = ("entrypoint_num_cpus", "entrypoint_num_gpus", "entrypoint_memory", "entrypoint_resources")
    assert not any(job[name] for name in needs), "it starts, and waits for its nodes"


def test_an_unreachable_dashboard_fails_at_once(tmp_path: Path) -> None:
    step = run(launch("http://127.0.0.1:9"), counting(tmp_path))
    assert "Failed to connect to Ray at address: http://127.0.0.1:9" in step.failure
    assert backend_for(launch("http://127.0.0.1:9")), "and not before a program is started"


@pytest.mark.parametrize("version", [True, False])
def test_a_dashboard_that_does_not_answer_fails_the_step(
    version: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes connections, and says nothing; or its version, and nothing more."""
    import ray

    class Dashboard(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if version and self.path == "/api/version":
                body = json.dumps({"ray_version": ray.__version__, "version": "4"}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            else:
                ended.wait(60)

    monkeypatch.setattr("assets.launching.ray.REQUEST_TIMEOUT", 0.2)
    ended = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Dashboard) as server:
        threading.Thread(target=server.serve_forever).start()
        backend = RaySettings(address=f"http://127.0.0.1:{server.server_port}", unreachable_timeout=1)
        step = run(launch("", backend=backend), counting(tmp_path))
        server.shutdown()
        ended.set()
    assert "Read timed out" in step.failure
    assert ("has not answered for 1 s" in step.failure) == version
