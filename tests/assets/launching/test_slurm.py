"""What is submitted to Slurm: built by dagster-slurm from our settings, and read by a real shell, but not by sbatch."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from assets.launching.backend import Deadlines, Program
from assets.launching.launcher import LaunchSettings, program_of
from assets.launching.slurm import SlurmSettings, compute, connection, folder_of
from assets.launching.slurm_script import lines_of_failed_node, script_of
from tests.assets.launching.counting import PROGRAM
from tests.assets.launching.steps import counting, run

DEADLINES = Deadlines(120, 15)


def settings(tmp_path: Path, **changes: Any) -> SlurmSettings:
    (tmp_path / "key").touch()
    defaults: dict[str, Any] = {
        "host": "login.example", "user": "somebody", "key": tmp_path / "key", "folder": tmp_path / "jobs",
    }  # fmt: skip
    return SlurmSettings(**{**defaults, **changes})


def sbatch(settings: SlurmSettings, program: Program, **options: Any) -> list[str]:
    """The words of the command by which dagster-slurm submits the program."""
    resource = compute(settings, DEADLINES, program)
    client = resource.get_pipes_client(None)  # type: ignore[arg-type]
    command: str = client._build_sbatch_command("name", "/jobs", "/jobs/out", "/jobs/err", "/jobs/job.sh", options)
    return command.split()


def test_a_job_requests_what_the_programs_processes_need(tmp_path: Path) -> None:
    slurm = settings(tmp_path, cpus=4, partition="gpu", account="lab", qos="long", time_limit="2-00:00:00")
    words = sbatch(slurm, Program("training.rl", tmp_path, [], 8, True, {}), mem="256G")
    assert {"--gres=gpu:8", "--mem=256G", "--account=lab", "--qos=long", "--signal=B:INT@150"} <= set(words)
    for name, value in (("-c", "32"), ("-p", "gpu"), ("-t", "2-00:00:00"), ("-N", "1")):
        assert words[words.index(name) + 1] == value


def test_a_program_on_the_cpu_requests_no_gpu_and_the_clusters_default_memory(tmp_path: Path) -> None:
    words = sbatch(settings(tmp_path), Program("evaluation.generate", tmp_path, [], 2, False, {}))
    assert not any(word.startswith(("--gres", "--mem")) for word in words)
    assert words[words.index("-c") + 1] == "2"


def test_a_job_on_several_nodes_requests_what_each_of_them_needs(tmp_path: Path) -> None:
    program = Program("training.rl", tmp_path, [], 16, True, {}, nodes=2)
    words = sbatch(settings(tmp_path, cpus=4), program)
    assert "--gres=gpu:8" in words
    assert (words[words.index("-N") + 1], words[words.index("-c") + 1]) == ("2", "32")


def test_a_time_limit_leaves_time_to_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be shorter than time_limit"):
        compute(settings(tmp_path, time_limit="00:02:00"), DEADLINES, Program("training.rl", tmp_path, [], 1, True, {}))


def test_the_script_starts_the_program_under_its_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As bash runs it, in an environment of its own."""
    monkeypatch.setenv("FUTURE_L1_JUDGE_API_KEY", "sk-canary-0f1e2d")
    out = tmp_path / "it's out"
    out.mkdir()
    (out / "config.json").write_text(json.dumps({"out": str(out), "device": "cpu"}))
    arguments = ["-m", PROGRAM, "--config", str(out / "config.json")]
    program = Program(PROGRAM, out, arguments, 1, False, {"ADDED": "two words"})
    lines = script_of(settings(tmp_path), DEADLINES, program, {})
    plan = compute(settings(tmp_path), DEADLINES, program).default_launcher.prepare_execution(
        payload_path="", python_executable="", working_dir="/jobs", pipes_context={}
    )
    assert plan.payload == lines
    assert lines[-1].startswith("exec ") and " -m training.runtime.supervisor 120 15 " in lines[-1]
    assert "canary" not in "\n".join(lines)
    (tmp_path / "job.sh").write_text("\n".join(lines))
    ran = subprocess.run(
        ["bash", str(tmp_path / "job.sh")], env={"PATH": "/usr/bin:/bin"}, stdin=subprocess.DEVNULL, cwd="/", check=True
    )
    assert ran.returncode == 0
    result = json.loads((out / "result.json").read_text())
    assert result["environment"] == {"ADDED": "two words", "FUTURE_L1_JUDGE_API_KEY": None}


SRUN = """#!/bin/bash
printf '%s\\n' "$@" > "$0.arguments"
while [[ $1 == --* ]]; do shift; done
for id in 0 1; do (: | SLURM_NODEID=$id "$@" 2>&1 | sed "s/^/$id: /"; exit "${PIPESTATUS[1]}") & done
wait -n && wait -n
"""
"""Starts both nodes' tasks on this machine, with the standard input that srun gives them."""


def test_the_script_starts_each_nodes_part_under_a_supervisor(tmp_path: Path) -> None:
    """As bash runs it, with a stand-in for srun."""
    out = tmp_path / "it's out"
    launch = LaunchSettings(backend=settings(tmp_path, cpus=3), nodes={PROGRAM: 2}, num_processes={PROGRAM: 2})
    program = program_of(launch, counting(out))
    script = "\n".join(script_of(settings(tmp_path, cpus=3), DEADLINES, program, {}))
    for name, text in (("srun", SRUN), ("scontrol", '#!/bin/bash\necho "$*" > "$0.arguments"; echo localhost; echo b')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    variables = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "123456789", "SLURM_JOB_NODELIST": "localhost,b"}
    ran = subprocess.run(["bash", "-c", script], env=variables, stdin=subprocess.DEVNULL, cwd="/", capture_output=True)
    assert ran.returncode == 0, ran.stdout
    assert json.loads((out / "result.json").read_text())["counted"] == 4
    assert {file.name for file in out.glob("rank_*")} == {"rank_0.json", "rank_1.json"}
    assert (tmp_path / "scontrol.arguments").read_text() == "show hostnames localhost,b\n"
    words = (tmp_path / "srun.arguments").read_text()
    assert words.startswith("--nodes=2\n--ntasks=2\n--ntasks-per-node=1\n--cpus-per-task=3\n")
    assert {"--kill-on-bad-exit=1", "--wait=0", "--disable-status", "--label"} <= set(words.splitlines())
    assert '--machine_rank "$SLURM_NODEID" --main_process_ip "$MAIN_ADDRESS"' in words


def test_a_failure_has_the_lines_of_the_node_that_failed_first() -> None:
    output = "\n".join([
        "0: Connection closed by peer", "1: CUDA out of memory", "0: and many lines", "1: Traceback",
        "srun: error: n2: task 1: Exited with exit code 1", "srun: error: n1: task 0: Killed",
    ])  # fmt: skip
    assert lines_of_failed_node(output).splitlines() == [
        "1: CUDA out of memory", "1: Traceback", "srun: error: n2: task 1: Exited with exit code 1",
    ]  # fmt: skip
    assert lines_of_failed_node("one node's output") == "one node's output"


def test_the_host_is_reached_without_a_password(tmp_path: Path) -> None:
    command = connection(settings(tmp_path, port=2222)).get_ssh_base_command()
    assert command[-1] == "somebody@login.example"
    assert command[command.index("-i") + 1] == str(tmp_path / "key")
    assert command[command.index("-p") + 1] == "2222"
    assert {"BatchMode=yes", "PasswordAuthentication=no", "StrictHostKeyChecking=yes"} <= set(command)


def test_each_program_has_a_folder_of_its_own_jobs(tmp_path: Path) -> None:
    slurm = settings(tmp_path)
    one, two = (Program("training.rl", tmp_path / name, [], 1, True, {}) for name in ("one", "two"))
    assert folder_of(slurm, one) == folder_of(slurm, one) != folder_of(slurm, two)
    assert compute(slurm, DEADLINES, one).slurm.remote_base == str(folder_of(slurm, one))  # type: ignore[union-attr]


def test_an_unreachable_host_is_named(tmp_path: Path) -> None:
    unreachable = settings(tmp_path, host="127.0.0.1", port=9, unreachable_timeout=0.1)
    failure = run(LaunchSettings(backend=unreachable), counting(tmp_path / "out")).failure
    assert failure.startswith("Slurm on 127.0.0.1 has not answered for 0 s: ")
    assert "Connection refused" in failure
