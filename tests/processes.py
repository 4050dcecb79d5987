"""Commands of the project in processes of their own, run from the source tree as a person runs them."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

from training.runtime.project import PROJECT, python_variables

EXIT_TIMEOUT = 60.0
"""Seconds for a command to end after a signal: a guard against a hanging test."""

Result = TypeVar("Result")


def future_l1(*arguments: object) -> list[str]:
    """The command line of `future-l1`."""
    return [sys.executable, "-m", "pipelines", *map(str, arguments)]


def environment(**variables: str) -> dict[str, str]:
    """An environment with none of the project's variables but these, and with one core."""
    plain = {name: value for name, value in os.environ.items() if name != "SEED" and not name.startswith("FUTURE_L1_")}
    return plain | python_variables() | {"OMP_NUM_THREADS": "1"} | variables


def messages(stderr: str) -> list[str]:
    """The lines of a command's standard error but those that only say that it is still working."""
    return [line for line in stderr.splitlines() if not re.match(r"future-l1 \S+, \d+:\d\d:\d\d: ", line)]


def run(*arguments: object, folder: Path = PROJECT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs `future-l1` to its end."""
    command, variables = future_l1(*arguments), environment(**variables)
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def output(*arguments: object, folder: Path = PROJECT, **variables: str) -> str:
    """The standard output of `future-l1`, which must succeed."""
    ended = run(*arguments, folder=folder, **variables)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def until(
    condition: Callable[[], Result],
    what: str,
    seconds: float = 300.0,
    interval: float = 0.2,
    process: "subprocess.Popen[Any] | None" = None,
) -> Result:
    """Waits for a true result of `condition` and returns it.  An assertion, with `what` was waited for, fails after
    `seconds`, or when the process ends before."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert process is None or process.poll() is None, f"the process ended before: {what}"
        assert time.monotonic() < deadline, f"waited for {seconds:.0f} s, and not yet: {what}"
        time.sleep(interval)
    return result


def interrupt(
    command: Sequence[str], environment: Mapping[str, str], condition: Callable[[], object], *numbers: signal.Signals
) -> str:
    """Starts a command, as a shell starts its background jobs, and sends it signals once `condition` is true.

    Returns its standard error, having checked that it says how to go on, that the status is the first signal's, and
    that no process of the command is left.
    """
    process = subprocess.Popen(
        command, cwd=PROJECT, env=dict(environment), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    try:
        until(condition, "the moment of the interrupt", interval=0.01, process=process)
        family = psutil.Process(process.pid).children(recursive=True)
        for number in numbers:
            process.send_signal(number)
        _, message = process.communicate(timeout=EXIT_TIMEOUT)
    finally:
        process.kill()
    assert process.returncode == 128 + numbers[0], message
    assert f"stopped by {numbers[0].name}: " in message, message
    _, alive = psutil.wait_procs(family, timeout=EXIT_TIMEOUT)
    assert alive == []
    return message
