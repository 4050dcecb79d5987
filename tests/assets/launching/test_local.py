"""Programs on this machine: what they bring back, what they say when they fail, and which devices are theirs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from assets.launching.launcher import Launcher, LaunchSettings, Start, arguments_for
from assets.launching.local import LocalBackend, LocalSettings
from assets.launching.program import Deadlines, Program
from tests.assets.launching.counting import PROGRAM
from training.runtime.devices import try_claim

ROOT = Path(__file__).parents[3]


class Ran:
    """One run of one asset that launches programs."""

    def __init__(self, starts: Sequence[Start], settings: LaunchSettings, retries: int = 0) -> None:
        self.heard: list[tuple[int, int, str]] = []
        self.results: list[dict[str, Any]] = []
        self.tries = 0

        @dg.asset(retry_policy=dg.RetryPolicy(max_retries=retries))
        def counted(context: dg.AssetExecutionContext) -> None:
            self.tries += 1
            launcher = Launcher(settings, lambda *progress: self.heard.append(progress))
            self.results += launcher.run_parallel(context, starts)

        self.ran = dg.materialize([counted], instance=dg.DagsterInstance.ephemeral(), raise_on_error=False)

    @property
    def failure(self) -> str:
        failure = self.ran.failure_data_for_node("counted")
        assert failure is not None and failure.user_failure_data is not None
        return str(failure.user_failure_data.description)


def on_cpu(out: Path, deed: str = "go on", **config: Any) -> Start:
    return Start(PROGRAM, out, {"device": "cpu", "deed": deed, **config})


def on_gpu(out: Path, **config: Any) -> Start:
    return Start(PROGRAM, out, {"device": "auto", **config})


def having(devices: Sequence[str], num_processes: int = 1, **settings: Any) -> LaunchSettings:
    backend = LocalSettings(devices=tuple(devices))
    return LaunchSettings(backend=backend, num_processes={PROGRAM: num_processes}, **settings)


def test_a_program_runs_reports_and_returns_its_result(tmp_path: Path) -> None:
    run = Ran([on_cpu(tmp_path / "out")], LaunchSettings())
    assert run.results == [{"counted": 4, "resumed_from": 0, "devices": {"locks": []}}]
    assert run.heard[-1] == (4, 4, "counting")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["deed"] == "go on"


def test_a_program_goes_on_where_it_failed_and_its_siblings_are_not_ended_by_that(tmp_path: Path) -> None:
    starts = [on_cpu(tmp_path / "one", "fail"), on_cpu(tmp_path / "two")]
    first, second = (Ran(starts, LaunchSettings()) for _ in range(2))
    assert "the third number is broken" in first.failure
    assert not first.results
    assert [result["resumed_from"] for result in second.results] == [2, 4]


def test_a_config_that_is_refused_is_not_tried_again(tmp_path: Path) -> None:
    run = Ran([on_cpu(tmp_path / "out", unknown=1)], LaunchSettings(), retries=2)
    assert "ended with status 2" in run.failure and "unknown" in run.failure
    assert run.tries == 1


def test_a_stale_result_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    Ran([on_cpu(tmp_path / "out")], LaunchSettings())
    (tmp_path / "out" / "count").unlink()
    assert not Ran([on_cpu(tmp_path / "out", "fail")], LaunchSettings()).results
    assert not (tmp_path / "out" / "result.json").exists()


def test_a_program_that_takes_too_long_is_ended_with_everybody_it_started(tmp_path: Path) -> None:
    told = tmp_path / "told"
    settings = LaunchSettings(sigint_grace=0.3, sigterm_grace=0.3, timeout={PROGRAM: 10.0})
    run = Ran([on_cpu(tmp_path / "out", "ignore signals", told=str(told))], settings)
    assert "longer than launch.timeout" in run.failure
    pids = [int(pid) for pid in told.read_text().split()]
    assert len(pids) == 3 and not any(map(psutil.pid_exists, pids))


def test_programs_side_by_side_have_a_device_each(tmp_path: Path, devices: Sequence[str]) -> None:
    run = Ran([on_gpu(tmp_path / name) for name in ("one", "two")], having(devices))
    assert [result["devices"] for result in run.results] == [
        {"FUTURE_L1_DEVICES": name, "CUDA_VISIBLE_DEVICES": name, "locks": [f"future-l1-{name}.lock"]}
        for name in devices
    ]


def test_who_finds_no_device_waits_and_is_not_watched_meanwhile(tmp_path: Path, devices: Sequence[str]) -> None:
    watched: list[list[Path]] = []

    @dg.op
    def three(context: dg.OpExecutionContext) -> None:
        backend = LocalBackend(LocalSettings(devices=devices[:1]), Deadlines(1.0, 1.0))
        programs = [program(tmp_path / name, num_processes=1) for name in ("one", "two")]
        backend.run(context, programs, lambda running: watched.append([program.out for program in running]))

    @dg.job
    def counting() -> None:
        three()

    assert counting.execute_in_process().success
    assert {tuple(running) for running in watched} <= {(), (tmp_path / "one",), (tmp_path / "two",)}
    for name in ("one", "two"):
        assert json.loads((tmp_path / name / "result.json").read_text())["devices"]["CUDA_VISIBLE_DEVICES"] == "GPU-a"


def program(out: Path, num_processes: int) -> Program:
    out.mkdir()
    (out / "config.json").write_text(json.dumps({"out": str(out), "device": "auto"}))
    return Program(PROGRAM, out, ["-m", PROGRAM, "--config", str(out / "config.json")], num_processes, True, {})


def test_a_device_of_another_program_is_left_alone(tmp_path: Path, devices: Sequence[str]) -> None:
    other = try_claim(devices, 1)
    assert other is not None
    with other:
        run = Ran([on_gpu(tmp_path / "out")], having(devices))
    assert other.names == ("GPU-a",)
    assert run.results[0]["devices"]["CUDA_VISIBLE_DEVICES"] == "GPU-b"


def test_more_processes_than_devices_fail_at_once(tmp_path: Path, devices: Sequence[str]) -> None:
    run = Ran([on_gpu(tmp_path / "out")], having(devices, num_processes=3), retries=2)
    assert run.failure.startswith("3 processes need a device each, and there are 2 (GPU-a, GPU-b)")
    assert run.tries == 1


def test_a_program_on_the_cpu_claims_nothing(tmp_path: Path, devices: Sequence[str]) -> None:
    everything = try_claim(devices, 2)
    assert everything is not None
    with everything:
        run = Ran([on_cpu(tmp_path / "out")], having(devices))
    assert run.results[0]["devices"] == {"locks": []}


@pytest.fixture
def two_processes(tmp_path: Path) -> dict[str, Path]:
    """`accelerate launch` with two, where torch knows no GPU."""
    config = tmp_path / "two.yaml"
    config.write_text("compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nmixed_precision: 'no'\n"
                      "num_machines: 1\ndynamo_config: {}\nmain_process_port: 0\n")  # fmt: skip
    return {PROGRAM: config}


def test_each_process_holds_its_own_device_and_none_is_left(
    tmp_path: Path, devices: Sequence[str], two_processes: dict[str, Path]
) -> None:
    """The second one is killed as for want of memory."""
    told, out = tmp_path / "told", tmp_path / "out"
    settings = having(devices, 2, accelerate_config=two_processes, sigint_grace=1.0, sigterm_grace=0.5)
    run = Ran([on_gpu(out, deed="run out of memory", told=str(told))], settings)
    assert "Signal 9 (SIGKILL)" in run.failure
    ranks = [json.loads((out / f"rank_{i}.json").read_text()) for i in (0, 1)]
    assert [rank["CUDA_VISIBLE_DEVICES"] for rank in ranks] == ["GPU-a,GPU-b"] * 2
    assert [rank["locks"] for rank in ranks] == [["future-l1-GPU-a.lock"], ["future-l1-GPU-b.lock"]]
    assert not any(psutil.pid_exists(int(pid)) for pid in told.read_text().split())
    free = try_claim(devices, 2)
    assert free is not None
    with free:
        pass


def test_a_config_that_several_processes_refuse_is_not_tried_again(
    tmp_path: Path, devices: Sequence[str], two_processes: dict[str, Path]
) -> None:
    run = Ran([on_gpu(tmp_path / "out", unknown=1)], having(devices, 2, accelerate_config=two_processes), retries=2)
    assert "unknown" in run.failure
    assert run.tries == 1


def test_several_processes_go_through_accelerate_and_one_does_not(tmp_path: Path) -> None:
    settings = LaunchSettings(num_processes={"training.rl": 8}, accelerate_config={"training.rl": Path("fsdp.yaml")})
    many = arguments_for(settings, "training.rl", tmp_path / "config.json")
    one = arguments_for(settings, "evaluation.generate", tmp_path / "config.json")
    assert many[many.index("--num_processes") + 1] == "8"
    assert many[many.index("--config_file") + 1] == str(ROOT / "fsdp.yaml"), "wherever the launcher was started"
    assert "accelerate.commands.launch" not in one
    for arguments in (many, one):
        assert arguments[-2:] == ["--config", str(tmp_path / "config.json")]
