"""A program that counts to four and checkpoints each number; after two, in its first start, it may fail or hang."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

from training.runtime.devices import CLAIMED, VISIBLE
from training.runtime.errors import OutageError
from training.runtime.programs import ProgramConfig, Reporter, is_first, run_program
from training.storage.files import atomic_write

PROGRAM = "tests.assets.launching.counting"
FOREVER = 3600.0
STUBBORN = "import os, signal; [signal.signal(s, signal.SIG_IGN) for s in (2, 15)]; print(os.getpid()); signal.pause()"
"""Its id is the one thing that it writes, when it is ready: a second line would end it, once nobody reads."""
DAEMON = f"import os; os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0); {STUBBORN}"
"""A process that left the group and the session, and whose parents have ended."""


class Config(ProgramConfig):
    """behaviour: what to do after two; "hang" and the two after it also start processes that ignore signals.

    pids: a file or FIFO for the ids of this process and of those that it started.
    """

    behaviour: Literal["go on", "fail", "outage", "wait", "hang", "ignore signals", "run out of memory"] = "go on"
    pids: Path = Path("/dev/null")


def main(config: Config, reporter: Reporter) -> dict[str, Any]:
    """The last number, the number from which it resumed, its devices, and some of its environment."""
    checkpoint, rank = config.out / "count", os.environ.get("RANK", "0")
    resumed_from = int(checkpoint.read_text()) if is_first() and checkpoint.is_file() else 0
    (config.out / f"rank_{rank}.json").write_text(json.dumps(_devices()))
    for count in range(resumed_from + 1, 5):
        if count == 3 and resumed_from == 0:
            _misbehave(config)
        if is_first():
            with atomic_write(checkpoint) as fresh:
                fresh.write_text(str(count))
        reporter.progress(count, 4, "counting")
    environment = {name: os.environ.get(name) for name in ("FUTURE_L1_JUDGE_API_KEY", "ADDED")}
    return {"counted": 4, "resumed_from": resumed_from, "devices": _devices(), "environment": environment}


def _devices() -> dict[str, Any]:
    """The devices that this process's environment names, and the locks that it holds."""
    names = {name: os.environ[name] for name in (CLAIMED, VISIBLE) if name in os.environ}
    held = {path.name for fd in Path("/proc/self/fd").iterdir() if (path := fd.resolve()).suffix == ".lock"}
    return names | {"locks": sorted(held)}


def _misbehave(config: Config) -> None:
    match config.behaviour:
        case "go on":
            return
        case "fail":
            raise ValueError("the third number is broken")
        case "outage":
            if is_first():
                raise OutageError("the judge of numbers does not answer")
            return
        case "wait":
            time.sleep(FOREVER)
        case "ignore signals":
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
    pids = [os.getpid(), _start(STUBBORN), _start(DAEMON)]
    with config.pids.open("a") as file:
        file.write(" ".join(map(str, pids)) + "\n")
    if config.behaviour == "run out of memory" and os.environ.get("RANK") != "0":
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does
    time.sleep(FOREVER)


def _start(code: str) -> int:
    """The id of the process that ignores signals when it does."""
    process = subprocess.Popen([sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return int(process.stdout.readline())


if __name__ == "__main__":
    run_program(Config, main)
