"""A program that counts to four and checkpoints each number; at two, in its first start, it does what it is told."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from training.runtime.devices import CLAIMED, VISIBLE
from training.runtime.programs import ProgramConfig, Reporter, is_first, run_program
from training.storage.files import atomic_write

PROGRAM = "tests.assets.launching.counting"
FOREVER = 3600.0
STUBBORN = "import signal; [signal.signal(s, signal.SIG_IGN) for s in (2, 15)]; print('up', flush=True); signal.pause()"
DAEMON = f"import os; os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0); print(os.getpid()); {STUBBORN}"


class Config(ProgramConfig):
    """deed: what to do at two.  told: a file or FIFO for the ids of those who are there then."""

    deed: str = "go on"
    told: Path = Path("/dev/null")


def main(config: Config, reporter: Reporter) -> dict[str, Any]:
    """The last number, the number it went on from, and whose devices it thinks it has."""
    checkpoint, rank = config.out / "count", os.environ.get("LOCAL_RANK", "0")
    begun = int(checkpoint.read_text()) if is_first() and checkpoint.is_file() else 0
    (config.out / f"rank_{rank}.json").write_text(json.dumps(_devices()))
    for count in range(begun + 1, 5):
        if count == 3 and begun == 0:
            _do(config)
        if is_first():
            with atomic_write(checkpoint) as fresh:
                fresh.write_text(str(count))
        reporter.progress(count, 4, "counting")
    return {"counted": 4, "resumed_from": begun, "devices": _devices()}


def _devices() -> dict[str, Any]:
    """What this process was told, and the locks that it holds."""
    told = {name: os.environ[name] for name in (CLAIMED, VISIBLE) if name in os.environ}
    held = {path.name for fd in Path("/proc/self/fd").iterdir() if (path := fd.resolve()).suffix == ".lock"}
    return told | {"locks": sorted(held)}


def _do(config: Config) -> None:
    match config.deed:
        case "go on":
            return
        case "fail":
            raise ValueError("the third number is broken")
        case "ignore signals":
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
    _tell(config, _stubborn_child(), _daemon())
    match config.deed:
        case "run out of memory" if os.environ.get("LOCAL_RANK") != "0":
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does
    time.sleep(FOREVER)


def _stubborn_child() -> int:
    child = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()
    return child.pid


def _daemon() -> int:
    """One that left the group and the session, and whose parents have ended."""
    parent = subprocess.Popen([sys.executable, "-c", DAEMON], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    parent.wait()
    return int(parent.stdout.readline())


def _tell(config: Config, *started: int) -> None:
    with config.told.open("a") as told:
        told.write(" ".join(map(str, (os.getpid(), *started))) + "\n")


if __name__ == "__main__":
    run_program(Config, main)
