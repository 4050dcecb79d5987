"""Steps of Dagster runs that start programs through a backend: here, or in a process that can be ended."""

import json
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import psutil

from assets.launching.launcher import Launcher, LaunchSettings
from tests.assets.launching.counting import PROGRAM
from training.runtime.launch import Start

STEP = """
import json
import sys
import dagster as dg
from pathlib import Path
from assets.launching.launcher import Launcher, LaunchSettings
from training.runtime.launch import Start

@dg.asset
def checkpoint(context: dg.AssetExecutionContext):
    starts = [Start(module, Path(out), config) for module, out, config in json.loads(sys.argv[2])]
    launcher = Launcher(LaunchSettings.model_validate_json(sys.argv[1]), lambda *_: None)
    launcher.run_parallel(context, starts)

if __name__ == "__main__":
    dg.materialize([checkpoint], instance=dg.DagsterInstance.ephemeral())
"""


@dataclass
class StepRun:
    """A step of this process: results of its programs, their progress, its tries, and how it failed."""

    results: list[dict[str, Any]] = field(default_factory=list)
    progress: list[tuple[int, int, str]] = field(default_factory=list)
    tries: int = 0
    failure: str = ""


def counting(out: Path, behaviour: str = "go on", device: str = "cpu", **config: Any) -> Start:
    """The counting program, in a folder."""
    return Start(PROGRAM, out, {"device": device, "behaviour": behaviour, **config})


def run(settings: LaunchSettings, *starts: Start, retries: int = 0) -> StepRun:
    """Runs programs in a step of this process, to its end."""
    step = StepRun()

    @dg.asset(retry_policy=dg.RetryPolicy(max_retries=retries))
    def checkpoint(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        step.tries += 1
        launcher = Launcher(settings, lambda *progress: step.progress.append(progress))
        step.results += launcher.run_parallel(context, starts)
        return dg.MaterializeResult()  # which Pipes' sessions make obligatory

    ended = dg.materialize([checkpoint], instance=dg.DagsterInstance.ephemeral(), raise_on_error=False)
    if not ended.success:
        failure = ended.failure_data_for_node("checkpoint")
        assert failure is not None and failure.user_failure_data is not None
        step.failure = str(failure.user_failure_data.description)
    return step


def start_step(settings: LaunchSettings, *starts: Start) -> subprocess.Popen[bytes]:
    """Starts programs in a step of a process of its own."""
    triples = json.dumps([(start.module, str(start.out), dict(start.config)) for start in starts])
    command = [sys.executable, "-X", "faulthandler", "-c", STEP, settings.model_dump_json(), triples]
    return subprocess.Popen(command)


def interrupt(step: subprocess.Popen[bytes]) -> None:
    """Ends a step as Ctrl-C does; where it does not end, the stacks of its threads are on stderr."""
    step.send_signal(signal.SIGINT)
    try:
        step.wait(timeout=120)
    except subprocess.TimeoutExpired:
        step.send_signal(signal.SIGABRT)
        step.wait()
        raise


def working_in(folder: Path) -> list[list[str]]:
    """The command lines of living processes that name the folder, without those of the steps."""
    lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if any(str(folder) in word for word in line) and STEP not in line]
