"""Steps of Dagster runs that start programs through a backend: here, or in a process that can be ended."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import psutil

from assets.launching.launcher import Launcher, LaunchSettings, Start
from tests.assets.launching.deeds import PROGRAM

STEP = """
import json
import sys
import dagster as dg
from pathlib import Path
from assets.launching.launcher import Launcher, LaunchSettings, Start

@dg.asset
def checkpoint(context: dg.AssetExecutionContext):
    starts = [Start(module, Path(out), config) for module, out, config in json.loads(sys.argv[2])]
    launcher = Launcher(LaunchSettings.model_validate_json(sys.argv[1]), lambda *_: None)
    launcher.run_parallel(context, starts)

if __name__ == "__main__":
    dg.materialize([checkpoint], instance=dg.DagsterInstance.ephemeral())
"""


def asked(out: Path, deed: str, device: str = "cpu", **more: Any) -> Start:
    """The program of `deeds`, in a folder."""
    return Start(PROGRAM, out, {"device": device, "deed": deed, **more})


def run(settings: LaunchSettings, *starts: Start, retries: int = 0) -> tuple[list[dict[str, Any]], str, int]:
    """A step here: the results, how it failed, and how often it was tried."""
    results: list[dict[str, Any]] = []
    tries: list[int] = []

    @dg.asset(retry_policy=dg.RetryPolicy(max_retries=retries))
    def checkpoint(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        tries.append(context.retry_number)
        results.extend(Launcher(settings, lambda *_: None).run_parallel(context, starts))
        return dg.MaterializeResult()

    ran = dg.materialize([checkpoint], instance=dg.DagsterInstance.ephemeral(), raise_on_error=False)
    if ran.success:
        return results, "", len(tries)
    failed = ran.failure_data_for_node("checkpoint")
    assert failed is not None and failed.user_failure_data is not None
    return results, str(failed.user_failure_data.description), len(tries)


def begun(settings: LaunchSettings, *starts: Start) -> subprocess.Popen[bytes]:
    """A step in a process of its own."""
    told = json.dumps([(start.module, str(start.out), dict(start.config)) for start in starts])
    return subprocess.Popen([sys.executable, "-c", STEP, settings.model_dump_json(), told], stderr=subprocess.DEVNULL)


def wait_for(seen: Path, step: subprocess.Popen[bytes]) -> None:
    """Waits for a file that the step's program writes."""
    while not seen.exists():
        try:
            step.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"the step ended before {seen}")


def working_in(folder: Path) -> list[list[str]]:
    """The command lines of living processes that name the folder, but for the steps' own."""
    lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if any(str(folder) in word for word in line) and STEP not in line]
