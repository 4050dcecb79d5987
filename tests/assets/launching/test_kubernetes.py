"""The same programs as pods: what is submitted, and a real client with an API on loopback that runs it."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assets.launcher import LaunchSettings
from assets.launching.kubernetes import LABEL, KubernetesSettings, pod_of
from assets.launching.program import Deadlines, Program
from tests.assets.launching.kubernetes_api import Cluster, kubernetes_api
from tests.assets.launching.steps import asked, begun, run, wait_for, working_in
from training.project import PROJECT

CANARY = "sk-canary-0f1e2d"
KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{{name: here, cluster: {{server: "{address}"}}}}]
contexts: [{{name: here, context: {{cluster: here, user: somebody}}}}]
current-context: here
users: [{{name: somebody, user: {{token: canary-token}}}}]
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """One whose Secret has a judge key, as our own environment has another."""
    monkeypatch.setenv("FUTURE_L1_JUDGE_API_KEY", CANARY)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    (tmp_path / "pods").mkdir()
    cluster = Cluster(tmp_path / "pods", {"judge": {"FUTURE_L1_JUDGE_API_KEY": "the cluster's own"}})
    with kubernetes_api(cluster) as address:
        (tmp_path / "kubeconfig").write_text(KUBECONFIG.format(address=address))
        yield cluster


def launch(folder: Path, **changes: Any) -> LaunchSettings:
    backend = KubernetesSettings(
        image="future-l1", kubeconfig=folder / "kubeconfig", namespace="here", env_from=("judge",)
    )
    return LaunchSettings(**{"backend": backend, "seconds_to_checkpoint": 20, "seconds_to_leave": 5, **changes})


def test_programs_run_as_pods_with_the_clusters_own_secrets(
    cluster: Cluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = launch(tmp_path, environment={"ADDED": "here"})
    results, failed, _ = run(settings, asked(tmp_path / "one", "go on"), asked(tmp_path / "two", "go on"))
    assert failed == ""
    assert results == [{"resumed_from": 0, "ADDED": "here", "FUTURE_L1_JUDGE_API_KEY": "the cluster's own"}] * 2
    assert cluster.pods == {}, "none is left"
    assert f"- checkpoint - __main__ on cpu in {tmp_path / 'one'}" in capfd.readouterr().err, "said through Pipes"
    submitted = json.dumps(cluster.submitted)
    assert str(tmp_path / "one") in submitted
    assert CANARY not in submitted and "canary-token" not in submitted


def test_a_cancelled_step_ends_its_pods_and_the_next_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    """One program runs and one waits for a GPU, which no node has."""
    runs, waits = asked(tmp_path / "runs", "wait"), asked(tmp_path / "waits", "go on", device="auto")
    step = begun(launch(tmp_path), runs, waits)
    wait_for(runs.out / "progress.json", step)
    (log,) = (pod.log for pod in cluster.pods.values() if pod.process is not None)
    assert len(working_in(runs.out)) == 2, "a program and its supervisor"
    step.send_signal(signal.SIGINT)
    step.wait(timeout=120)
    assert working_in(runs.out) == []
    assert cluster.pods == {}
    assert "interrupted; the next start goes on from the last checkpoint" in log.read_text()
    (result,), _, _ = run(launch(tmp_path), runs)
    assert result["resumed_from"] == 1


def test_a_pod_outlives_a_killed_step_and_ends_when_its_program_is_started_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    runs = asked(tmp_path / "runs", "wait")
    step = begun(launch(tmp_path), runs)
    wait_for(runs.out / "progress.json", step)
    step.kill()
    step.wait()
    (orphan,) = cluster.pods.values()
    assert orphan.process is not None and orphan.process.poll() is None
    (result,), _, _ = run(launch(tmp_path), runs)
    assert orphan.process.poll() is not None
    assert result["resumed_from"] == 1
    assert cluster.pods == {}


def test_a_failure_says_what_the_program_said(cluster: Cluster, tmp_path: Path) -> None:
    _, failed, _ = run(launch(tmp_path), asked(tmp_path / "out", "fail"))
    assert "ended with status 1" in failed and "the eighth row is broken" in failed
    assert cluster.pods == {}


def test_a_pod_that_does_not_go_is_named(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assets.launching.cluster.SECONDS_TO_CONFIRM", 0.0)
    monkeypatch.setattr("assets.launching.cluster.SECONDS_TO_KILL", 0)
    cluster.stuck = True
    settings = launch(tmp_path, seconds_to_checkpoint=0.1, seconds_to_leave=0.1)
    _, failed, _ = run(settings, asked(tmp_path / "out", "go on"))
    (name,) = cluster.pods
    assert failed.startswith(f"the pod {name} was deleted and has not gone: see `kubectl describe pod {name} ")


def test_a_config_that_is_refused_is_not_tried_again(cluster: Cluster, tmp_path: Path) -> None:
    _, failed, tries = run(launch(tmp_path), asked(tmp_path / "out", "go on", unknown=1), retries=2)
    assert "unknown" in failed and "status 2" in failed
    assert tries == 1


def test_a_pod_asks_for_what_the_programs_processes_need(tmp_path: Path) -> None:
    settings = KubernetesSettings(
        image="registry.example/future-l1:1", python="/shared/env/bin/python", cpus=4, memory_gib=32,
        volumes={"shared": Path("/shared")}, env_from=("judge",), service_account="trainer",
        node_selector={"gpu": "h100"}, tolerations=({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},),
    )  # fmt: skip
    program = Program("training.rl", tmp_path, ["-m", "training.rl"], 8, True, {"ADDED": "here"}, seconds_at_most=3600)
    pod = pod_of(settings, Deadlines(120, 15), program, "rl-1", {"DAGSTER_PIPES_CONTEXT": "given"})
    spec, (container,) = pod.spec, pod.spec.containers
    assert (pod.metadata.name, pod.metadata.annotations[LABEL]) == ("rl-1", str(tmp_path))
    assert container.image == "registry.example/future-l1:1"
    python = "/shared/env/bin/python"
    assert container.command == [python, "-m", "training.supervisor", "120", "15", python, "-m", "training.rl"]
    assert container.working_dir == str(PROJECT)
    assert container.resources.limits == {"cpu": "32", "memory": "256Gi", "nvidia.com/gpu": "8"}
    assert container.resources.requests == container.resources.limits
    assert {entry.name: entry.value for entry in container.env}.items() >= {
        "ADDED": "here", "DAGSTER_PIPES_CONTEXT": "given", "OMP_NUM_THREADS": "4",
    }.items()  # fmt: skip
    assert [source.secret_ref.name for source in container.env_from] == ["judge"]
    assert {mount.name: mount.mount_path for mount in container.volume_mounts} == {
        "shm": "/dev/shm", "volume-0": "/shared",
    }  # fmt: skip
    assert spec.volumes[1].persistent_volume_claim.claim_name == "shared"
    assert (spec.restart_policy, spec.service_account_name, spec.automount_service_account_token) == (
        "Never", "trainer", False,
    )  # fmt: skip
    assert (spec.termination_grace_period_seconds, spec.active_deadline_seconds) == (150, 3900)
    assert (spec.node_selector, spec.tolerations[0].operator) == ({"gpu": "h100"}, "Exists")


def test_a_program_on_the_cpu_asks_for_no_gpu_and_no_deadline(tmp_path: Path) -> None:
    program = Program("evaluation.answer", tmp_path, [], 1, False, {})
    spec = pod_of(KubernetesSettings(image="future-l1"), Deadlines(120, 15), program, "answer-1", {}).spec
    assert spec.containers[0].resources.limits == {"cpu": "1"}
    assert spec.active_deadline_seconds is None


def test_no_access_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text("apiVersion: v1\nkind: Config\n")
    _, failed, tries = run(launch(tmp_path), asked(tmp_path / "out", "go on"), retries=2)
    assert failed.startswith("no access to Kubernetes: ") and tries == 1
