"""What the cluster backends share: retries, the last lines of a log, environment and command of a program."""

import json
from pathlib import Path

import dagster as dg
import pytest

from assets.launching.backend import LINES_KEPT, ClusterSettings, Deadlines, Program, last_lines, with_retries
from training.runtime.project import PROJECT


def test_a_call_without_an_answer_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assets.launching.backend.POLL_INTERVAL", 0.0)
    answers = iter([ConnectionError("gone"), ConnectionError("gone"), "here"])

    def ask() -> str:
        answer = next(answers)
        if isinstance(answer, ConnectionError):
            raise answer
        return answer

    assert with_retries(ask, (ConnectionError,), 60.0, "the cluster") == "here"


def test_a_server_that_never_answers_is_named_with_the_last_error() -> None:
    def ask() -> None:
        raise ConnectionError("refused")

    with pytest.raises(dg.Failure) as failed:
        with_retries(ask, (ConnectionError,), 0.0, "the cluster at http://10.0.0.1")
    assert failed.value.description == "the cluster at http://10.0.0.1 has not answered for 0 s: refused"


def test_other_errors_are_not_waited_out() -> None:
    def ask() -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        with_retries(ask, (ConnectionError,), 60.0, "the cluster")


def test_the_last_lines_are_without_messages_of_pipes() -> None:
    message = json.dumps({"__dagster_pipes_version": "0.1", "method": "closed", "params": {}})
    lines = [*(f"line {number}" for number in range(100)), '{"loss": 0.5}', "7", message]
    assert last_lines("\n".join(lines)) == lines[-LINES_KEPT - 1 : -1]


def test_a_program_gets_its_settings_and_no_other_variable_of_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    monkeypatch.setenv("PYTHONPATH", "/shared/more")
    program = Program("training.sft", tmp_path, ["-m", "training.sft"], 2, True, {"ADDED": "here"})
    settings = ClusterSettings(python="/shared/python", cpus=4)
    assert settings.environment_for(program, Deadlines(119.5, 15)) == {
        "OMP_NUM_THREADS": "4", "PYTHONPATH": f"{PROJECT}:/shared/more", "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "120", "ADDED": "here",
    }  # fmt: skip
    assert settings.command_for(program, Deadlines(119.5, 15)) == [
        "/shared/python", "-m", "training.runtime.supervisor", "119.5", "15", "/shared/python", "-m", "training.sft",
    ]  # fmt: skip
    assert (settings.cpus_for(program), settings.gpus_for(program), settings.gib_for(program)) == (8, 2, None)


def test_a_node_needs_what_its_part_of_the_processes_needs(tmp_path: Path) -> None:
    program = Program("training.sft", tmp_path, [], 16, True, {}, nodes=4)
    settings = ClusterSettings(cpus=8, memory_gib=1.6)
    assert (settings.cpus_for(program), settings.gpus_for(program), settings.gib_for(program)) == (32, 4, 7)
