"""Programs on this machine: their results, their failures and their devices."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from assets.launching.backend import Deadlines, Program
from assets.launching.launcher import LaunchSettings, program_of
from assets.launching.local import LocalBackend, LocalSettings
from assets.launching.ray import RaySettings
from tests.assets.launching.counting import PROGRAM
from tests.assets.launching.steps import counting, run
from training.runtime.devices import try_claim
from training.runtime.launch import Start, on_node
from training.runtime.project import PROJECT


def on_devices(devices: Sequence[str], num_processes: int = 1, **settings: Any) -> LaunchSettings:
    backend = LocalSettings(devices=tuple(devices))
    return LaunchSettings(backend=backend, num_processes={PROGRAM: num_processes}, **settings)


def test_a_program_runs_reports_and_returns_its_result(tmp_path: Path) -> None:
    step = run(LaunchSettings(), counting(tmp_path / "out"))
    (result,) = step.results
    assert (result["counted"], result["resumed_from"], result["devices"]) == (4, 0, {"locks": []})
    assert step.progress[-1] == (4, 4, "counting")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["behaviour"] == "go on"


def test_a_program_resumes_where_it_failed_and_its_siblings_go_on(tmp_path: Path) -> None:
    starts = [counting(tmp_path / "one", "fail"), counting(tmp_path / "two")]
    first, second = (run(LaunchSettings(), *starts) for _ in range(2))
    assert "the third number is broken" in first.failure
    assert not first.results
    assert [result["resumed_from"] for result in second.results] == [2, 4]


def test_a_config_that_is_refused_is_not_tried_again(tmp_path: Path) -> None:
    step = run(LaunchSettings(), counting(tmp_path / "out", unknown=1), retries=2)
    assert "ended with status 2" in step.failure and "unknown" in step.failure
    assert step.tries == 1


def test_a_stale_result_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    run(LaunchSettings(), counting(tmp_path / "out"))
    (tmp_path / "out" / "count").unlink()
    assert not run(LaunchSettings(), counting(tmp_path / "out", "fail")).results
    assert not (tmp_path / "out" / "result.json").exists()


def test_a_program_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    settings = LaunchSettings(sigint_grace=0.3, sigterm_grace=0.3, timeout={PROGRAM: 10.0})
    step = run(settings, counting(tmp_path / "out", "ignore signals", pids=str(pids)))
    assert "longer than launch.timeout" in step.failure
    processes = [int(pid) for pid in pids.read_text().split()]
    assert len(processes) == 3 and not any(map(psutil.pid_exists, processes))


def test_programs_side_by_side_have_a_device_each(tmp_path: Path, devices: Sequence[str]) -> None:
    step = run(on_devices(devices), *(counting(tmp_path / name, device="auto") for name in ("one", "two")))
    assert [result["devices"] for result in step.results] == [
        {"FUTURE_L1_DEVICES": name, "CUDA_VISIBLE_DEVICES": name, "locks": [f"future-l1-{name}.lock"]}
        for name in devices
    ]


def test_a_program_without_a_free_device_waits_and_is_not_watched_meanwhile(
    tmp_path: Path, devices: Sequence[str]
) -> None:
    watched: list[list[Path]] = []

    @dg.op
    def launch(context: dg.OpExecutionContext) -> None:
        backend = LocalBackend(LocalSettings(devices=devices[:1]), Deadlines(1.0, 1.0))
        programs = [program(tmp_path / name, num_processes=1) for name in ("one", "two")]
        backend.run(context, programs, lambda running: watched.append([program.out for program in running]))

    @dg.job
    def launch_two() -> None:
        launch()

    assert launch_two.execute_in_process().success
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
        step = run(on_devices(devices), counting(tmp_path / "out", device="auto"))
    assert other.names == ("GPU-a",)
    assert step.results[0]["devices"]["CUDA_VISIBLE_DEVICES"] == "GPU-b"


def test_more_processes_than_devices_fail_at_once(tmp_path: Path, devices: Sequence[str]) -> None:
    step = run(on_devices(devices, num_processes=3), counting(tmp_path / "out", device="auto"), retries=2)
    assert step.failure.startswith("3 processes need a device each, and there are 2 (GPU-a, GPU-b)")
    assert step.tries == 1


def test_a_program_on_the_cpu_claims_nothing(tmp_path: Path, devices: Sequence[str]) -> None:
    everything = try_claim(devices, 2)
    assert everything is not None
    with everything:
        step = run(on_devices(devices), counting(tmp_path / "out"))
    assert step.results[0]["devices"] == {"locks": []}


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
    pids, out = tmp_path / "pids", tmp_path / "out"
    settings = on_devices(devices, 2, accelerate_config=two_processes, sigint_grace=1.0, sigterm_grace=0.5)
    step = run(settings, counting(out, "run out of memory", device="auto", pids=str(pids)))
    assert "Signal 9 (SIGKILL)" in step.failure
    ranks = [json.loads((out / f"rank_{i}.json").read_text()) for i in (0, 1)]
    assert [rank["CUDA_VISIBLE_DEVICES"] for rank in ranks] == ["GPU-a,GPU-b"] * 2
    assert [rank["locks"] for rank in ranks] == [["future-l1-GPU-a.lock"], ["future-l1-GPU-b.lock"]]
    assert not any(psutil.pid_exists(int(pid)) for pid in pids.read_text().split())
    free = try_claim(devices, 2)
    assert free is not None
    with free:
        pass


def test_a_config_that_several_processes_refuse_is_not_tried_again(
    tmp_path: Path, devices: Sequence[str], two_processes: dict[str, Path]
) -> None:
    settings = on_devices(devices, 2, accelerate_config=two_processes)
    step = run(settings, counting(tmp_path / "out", device="auto", unknown=1), retries=2)
    assert "unknown" in step.failure
    assert step.tries == 1


def test_an_outage_in_one_of_several_processes_is_tried_again_and_resumes(
    tmp_path: Path, devices: Sequence[str], two_processes: dict[str, Path]
) -> None:
    settings = on_devices(devices, 2, accelerate_config=two_processes)
    step = run(settings, counting(tmp_path / "out", "outage", device="auto"), retries=1)
    assert step.tries == 2
    assert [result["resumed_from"] for result in step.results] == [2]


def test_several_processes_go_through_accelerate_and_one_does_not(tmp_path: Path) -> None:
    fsdp = "profiles/accelerate/fsdp2.yaml"
    settings = LaunchSettings(num_processes={"training.rl": 8}, accelerate_config={"training.rl": Path(fsdp)})
    many = program_of(settings, Start("training.rl", tmp_path, {})).arguments
    one = program_of(settings, Start("evaluation.generate", tmp_path, {})).arguments
    assert many[many.index("--num_processes") + 1] == "8"
    assert many[many.index("--config_file") + 1] == str(PROJECT / fsdp), "wherever the launcher was started"
    assert "accelerate.commands.launch" not in one
    for arguments in (many, one):
        assert arguments[-2:] == ["--config", str(tmp_path / "config.json")]


def test_a_node_starts_its_part_whatever_machines_a_file_names(tmp_path: Path) -> None:
    settings = LaunchSettings(
        backend=RaySettings(), nodes={PROGRAM: 2}, num_processes={PROGRAM: 4},
        accelerate_config={PROGRAM: Path("profiles/accelerate/fsdp2.yaml")},
    )  # fmt: skip
    program = program_of(settings, Start(PROGRAM, tmp_path, {}))
    command = on_node(program.arguments, 1, "10.0.0.1", 20_001)
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(command[2:]))
    prepare_multi_gpu_env(arguments)
    assert (arguments.nnodes, arguments.nproc_per_node, arguments.node_rank) == ("2", "2", 1)
    assert arguments.rdzv_endpoint == "10.0.0.1:20001"
    assert arguments.deepspeed_multinode_launcher == "standard", "not by ssh from the first node"
    assert arguments.training_script_args == ["--config", str(tmp_path / "config.json")]
