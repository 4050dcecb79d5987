"""No process of a program outlives its step, however either of them ends. All processes here are real."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import psutil
import pytest

from assets.launcher import Launcher, LaunchSettings, Start, arguments_for
from assets.launching.local import end_group, members
from assets.launching.program import Deadlines

ROOT = Path(__file__).parents[2]

PROGRAM = """
import json, os, signal, subprocess, sys
from training.programs import ProgramConfig, run_program

class Config(ProgramConfig):
    deed: str
    fifo: str = ""

STUBBORN = "import signal; [signal.signal(s, signal.SIG_IGN) for s in (2, 15)]; print('up', flush=True); signal.pause()"

def main(config, reporter):
    reporter.progress(1, 2, "counting")
    if config.deed == "count":
        reporter.metrics(1, {"loss": 0.5})
        return {"counted": 2}
    if config.deed == "fail":
        raise ValueError("the eighth row is broken")
    for number in (signal.SIGINT, signal.SIGTERM):
        if config.deed == "stubborn":
            signal.signal(number, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True)
    child.stdout.readline()
    with open(config.fifo, "w") as fifo:
        fifo.write(f"{os.getpid()} {child.pid}")
    while True:
        signal.pause()

if __name__ == "__main__":
    run_program(Config, main)
"""

STEP = """
import sys
from pathlib import Path
import dagster as dg
from assets.launcher import Launcher, LaunchSettings, Start

@dg.asset
def checkpoint(context: dg.AssetExecutionContext):
    settings = LaunchSettings(seconds_to_checkpoint=0.5, seconds_to_leave=0.5)
    out, deed, fifo = sys.argv[1:]
    config = {"device": "cpu", "deed": deed, "fifo": fifo}
    Launcher(settings, lambda *_: None).run_together(context, [Start("deeds", Path(out), config)])

dg.materialize([checkpoint], instance=dg.DagsterInstance.ephemeral())
"""


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deeds.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))


def run(out: Path, deed: str) -> tuple[dg.ExecuteInProcessResult, dict, list]:
    heard: list[tuple[int, int, str]] = []
    results: dict = {}

    @dg.asset
    def checkpoint(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        launcher = Launcher(LaunchSettings(), lambda *progress: heard.append(progress))
        results.update(*launcher.run_together(context, [Start("deeds", out, {"device": "cpu", "deed": deed})]))
        return dg.MaterializeResult()

    ran = dg.materialize([checkpoint], instance=dg.DagsterInstance.ephemeral(), raise_on_error=False)
    return ran, results, heard


def test_a_program_runs_reports_and_returns_its_result(tmp_path: Path) -> None:
    ran, results, heard = run(tmp_path / "out", "count")
    assert ran.success
    assert results == {"counted": 2}
    assert heard[-1] == (1, 2, "counting")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["deed"] == "count"


def test_programs_side_by_side_return_their_results_in_order(tmp_path: Path) -> None:
    results: list[dict] = []

    @dg.asset
    def checkpoints(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        starts = [Start("deeds", tmp_path / name, {"device": "cpu", "deed": "count"}) for name in ("one", "two")]
        results.extend(Launcher(LaunchSettings(), lambda *_: None).run_together(context, starts))
        return dg.MaterializeResult()

    assert dg.materialize([checkpoints], instance=dg.DagsterInstance.ephemeral()).success
    assert results == [{"counted": 2}, {"counted": 2}]
    assert {json.loads((tmp_path / name / "progress.json").read_text())["done"] for name in ("one", "two")} == {1}


def test_a_config_that_is_refused_is_not_tried_again(tmp_path: Path) -> None:
    tries: list[int] = []

    @dg.asset(retry_policy=dg.RetryPolicy(max_retries=2))
    def checkpoint(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        tries.append(context.retry_number)
        config = {"device": "cpu", "deed": "count", "unknown": 1}
        Launcher(LaunchSettings(), lambda *_: None).run_together(context, [Start("deeds", tmp_path / "out", config)])
        return dg.MaterializeResult()

    assert not dg.materialize([checkpoint], instance=dg.DagsterInstance.ephemeral(), raise_on_error=False).success
    assert tries == [0]


def test_a_failure_says_what_the_program_said(tmp_path: Path) -> None:
    ran, _, _ = run(tmp_path / "out", "fail")
    failure = ran.failure_data_for_node("checkpoint")
    assert failure is not None
    assert failure.user_failure_data is not None
    assert "the eighth row is broken" in str(failure.user_failure_data.description)


def test_a_stale_result_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    run(tmp_path / "out", "count")
    ran, results, _ = run(tmp_path / "out", "fail")
    assert not ran.success
    assert results == {}
    assert not (tmp_path / "out" / "result.json").exists()


@pytest.mark.parametrize("deed", ["obedient", "stubborn"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["cancelled", "killed"])
def test_nobody_outlives_a_step(tmp_path: Path, deed: str, number: signal.Signals) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    step = subprocess.Popen(
        [sys.executable, "-c", STEP, str(tmp_path / "out"), deed, str(fifo)], stderr=subprocess.DEVNULL
    )
    leader, grandchild = (psutil.Process(int(pid)) for pid in fifo.read_text().split())
    step.send_signal(number)
    step.wait(timeout=60)
    if number == signal.SIGKILL and deed == "stubborn":
        # Only the kernel's TERM reaches a program whose step is gone. One that ignores it is for a person to end;
        # its lock keeps others off the device meanwhile.
        assert leader.is_running()
        os.killpg(leader.pid, signal.SIGKILL)
    elif number == signal.SIGKILL:
        leader.wait(timeout=60)
        grandchild.kill()
    _, alive = psutil.wait_procs([leader, grandchild], timeout=60)
    assert alive == []


def test_a_program_that_hangs_is_ended_with_everybody_it_started(tmp_path: Path) -> None:
    told = tmp_path / "pids"

    @dg.asset
    def checkpoint(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        settings = LaunchSettings(seconds_to_checkpoint=0.3, seconds_to_leave=0.3, seconds_silent=10.0)
        asked = Start("deeds", tmp_path / "out", {"device": "cpu", "deed": "stubborn", "fifo": str(told)})
        Launcher(settings, lambda *_: None).run_together(context, [asked])
        return dg.MaterializeResult()

    ran = dg.materialize([checkpoint], instance=dg.DagsterInstance.ephemeral(), raise_on_error=False)
    failure = ran.failure_data_for_node("checkpoint")
    assert failure is not None and failure.user_failure_data is not None
    assert "has said nothing for 10 s: it hangs" in str(failure.user_failure_data.description)
    leader, grandchild = (int(pid) for pid in told.read_text().split())
    assert leader != grandchild and members(leader) == []


def start_group(code: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def ignoring(*numbers: signal.Signals) -> str:
    ignored = "".join(f"signal.signal({int(number)}, signal.SIG_IGN); " for number in numbers)
    return f"import signal; {ignored}print('up', flush=True); signal.pause()"


@pytest.mark.parametrize(
    ("ignored", "ended_by"),
    [
        ((signal.SIGINT,), signal.SIGTERM),
        ((signal.SIGINT, signal.SIGTERM), signal.SIGKILL),
    ],
)
def test_who_ignores_a_signal_gets_the_next(ignored: tuple[signal.Signals, ...], ended_by: signal.Signals) -> None:
    process = start_group(ignoring(*ignored))
    end_group(process, Deadlines(0.2, 0.2))
    assert process.returncode == -ended_by
    assert members(process.pid) == []


def test_stragglers_of_a_leader_that_has_ended_are_ended_too() -> None:
    process = start_group(
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {ignoring(signal.SIGTERM)!r}])"
    )
    process.wait(timeout=60)
    assert len(members(process.pid)) == 1
    end_group(process, Deadlines(0.2, 0.2))
    assert members(process.pid) == []


def test_several_processes_go_through_accelerate_and_one_does_not(tmp_path: Path) -> None:
    settings = LaunchSettings(processes={"training.rl": 8}, accelerate_config={"training.rl": Path("fsdp.yaml")})
    many = arguments_for(settings, "training.rl", tmp_path / "config.json")
    one = arguments_for(settings, "evaluation.answer", tmp_path / "config.json")
    assert many[many.index("--num_processes") + 1] == "8"
    assert many[many.index("--config_file") + 1] == str(ROOT / "fsdp.yaml"), "wherever the launcher was started"
    assert "accelerate.commands.launch" not in one
    for arguments in (many, one):
        assert arguments[-2:] == ["--config", str(tmp_path / "config.json")]
