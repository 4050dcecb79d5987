"""A program reads one config, reports, and leaves one result."""

import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from training.runtime.imports import importing
from training.runtime.launch import Start
from training.runtime.programs import Reporter, read_failure, read_metrics, read_progress

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys
from training.runtime.errors import OutageError
from training.runtime.programs import ProgramConfig, run_program

class Config(ProgramConfig):
    steps: int

def main(config, reporter):
    for step in range(config.steps):
        reporter.metrics(step, {"loss": 1.0 / (step + 1)})
        reporter.progress(step + 1, config.steps, "counting")
    if config.steps == 13:
        raise ValueError("thirteen")
    if config.steps == 11:
        raise OutageError("the judge does not answer")
    if config.steps == 7:
        sys.stdin.read()
    return {"counted": config.steps}

run_program(Config, main)
"""


def command(tmp_path: Path, **config: object) -> list[str]:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"out": str(tmp_path / "out"), "device": "cpu", **config}))
    return [sys.executable, "-c", PROGRAM, "--config", str(path)]


def start(tmp_path: Path, **config: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command(tmp_path, **config), env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_program_leaves_its_result_metrics_and_progress(tmp_path: Path) -> None:
    process = start(tmp_path, steps=3)
    assert process.returncode == 0, process.stderr
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == {"counted": 3}
    losses = [record["loss"] for record in read_metrics(tmp_path / "out")]
    assert losses == [1.0, 0.5, 1 / 3]
    assert read_progress(tmp_path / "out") == (3, 3, "counting")


def test_a_program_is_called_by_its_name(tmp_path: Path) -> None:
    """As a module, as a package's `__main__`, and as a file; in its first line."""
    (tmp_path / "counting").mkdir()
    for file in ("count.py", "__main__.py"):
        (tmp_path / "counting" / file).write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    options = command(tmp_path, steps=1)[-2:]
    file = str(tmp_path / "counting" / "count.py")
    for arguments, name in ((["-m", "counting.count"], "counting.count"), (["-m", "counting"], "counting"),
                        ([file], "count.py")):  # fmt: skip
        ran = subprocess.run([sys.executable, *arguments, *options], env=environment, capture_output=True, text=True,
                             timeout=120, check=True)  # fmt: skip
        assert ran.stdout.splitlines()[0] == f"{name} on cpu in {tmp_path / 'out'}"


def test_an_outage_is_left_for_whoever_does_not_see_its_status(tmp_path: Path) -> None:
    """As a step that starts several processes by `accelerate launch`, whose status is 1; until the next start."""
    process = start(tmp_path, steps=11)
    assert process.returncode == 75 and "the judge does not answer" in process.stderr
    assert read_failure(tmp_path / "out") == 75
    Start("training.sft", tmp_path / "out", {}).arguments()
    assert read_failure(tmp_path / "out") is None


def test_an_unknown_field_ends_it_before_it_starts(tmp_path: Path) -> None:
    process = start(tmp_path, steps=3, stpes=4)
    assert process.returncode == 2
    assert "stpes" in process.stderr
    assert not (tmp_path / "out").exists()


def test_a_program_that_fails_leaves_no_result(tmp_path: Path) -> None:
    process = start(tmp_path, steps=13)
    assert process.returncode == 1
    assert "thirteen" in process.stderr
    assert not (tmp_path / "out" / "result.json").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_program_leaves_its_work_and_says_so(tmp_path: Path, number: int, status: int) -> None:
    process = subprocess.Popen(
        command(tmp_path, steps=7),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "in " in process.stdout.readline()
    process.send_signal(number)
    _, output = process.communicate(timeout=60)
    assert process.returncode == status
    assert output.endswith(f": the next start goes on from what is in {tmp_path / 'out'}\n")
    assert not (tmp_path / "out" / "result.json").exists()


def test_two_programs_never_work_in_one_folder(tmp_path: Path) -> None:
    """The second one starts with the end of the first, however that comes."""
    programs = []
    for _ in range(2):
        program = subprocess.Popen(
            command(tmp_path, steps=7),
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert program.stdout is not None
        programs.append((program, program.stdout.readline()))
    (first, began), (second, waits) = programs
    assert " on cpu in " in began
    assert waits == f"waiting until the program that works in {tmp_path / 'out'} has ended\n"
    first.kill()
    first.communicate()
    output, _ = second.communicate(timeout=60)
    assert " on cpu in " in output and second.returncode == 0


def test_a_line_cut_by_a_kill_is_not_a_metric_and_a_resumed_step_counts_once(tmp_path: Path) -> None:
    reporter = Reporter(tmp_path)
    reporter.metrics(1, {"loss": 3.0})
    reporter.metrics(2, {"loss": 2.0})
    reporter.metrics(2, {"loss": 1.5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 1.5}]


def test_one_rank_of_several_speaks(tmp_path: Path) -> None:
    Reporter(tmp_path, quiet=True).progress(1, 2, "training")
    assert read_progress(tmp_path) is None


def test_the_garbage_collector_rests_during_imports_and_no_longer() -> None:
    def collections() -> int:
        return sum(generation["collections"] for generation in gc.get_stats())

    gc.collect()  # else it may begin between the two lines
    before, frozen = collections(), gc.get_freeze_count()
    with pytest.raises(ModuleNotFoundError), importing():
        modules = [[number] for number in range(50_000)]  # so many objects, with which it would begin dozens of times
        import no_such_module  # type: ignore[import-not-found]  # noqa: F401
    assert collections() == before
    assert gc.get_freeze_count() >= frozen + len(modules), "nor does it go through them later"
    assert gc.isenabled()


def test_programs_import_their_libraries_without_it() -> None:
    script = "import gc, training.sft.__main__, training.rl.__main__; print(gc.get_stats()[2]['collections'])"
    process = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=120, check=True,
    )  # fmt: skip
    assert int(process.stdout) <= 1, "with it, eight"
