"""The start of a program: its config, its command line, and its process on this machine.

Dagster's launcher and the command line start programs by the same functions; clusters take only the config and the
command line from here.
"""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from training.runtime import supervisor
from training.runtime.interrupts import defer_interrupts
from training.runtime.programs import FAILURE, RESULT
from training.runtime.project import python_variables
from training.storage.files import write_json


@dataclass(frozen=True)
class Start:
    """One program to run: its module, its working folder, and the other fields of its config."""

    module: str
    out: Path
    config: Mapping[str, Any]

    def arguments(self) -> list[str]:
        """The program's arguments of the Python interpreter; its config is written, and an earlier end deleted."""
        self.out.mkdir(parents=True, exist_ok=True)
        for end in (RESULT, FAILURE):
            (self.out / end).unlink(missing_ok=True)
        path = self.out / "config.json"
        write_json(path, {"out": str(self.out), **self.config}, allow_nan=True)
        return ["-m", self.module, "--config", str(path.absolute())]


class NodeWord(StrEnum):
    """A word of a command in place of which each node has a value of its own: its number, and the address and the port
    of the first node, where all processes meet."""

    RANK = "{node_rank}"
    MAIN_ADDRESS = "{main_address}"
    MAIN_PORT = "{main_port}"


def on_node(command: Sequence[str], rank: int, address: str, port: int) -> list[str]:
    """A command as one node starts it."""
    values: dict[str, str] = {
        NodeWord.RANK: str(rank), NodeWord.MAIN_ADDRESS: address, NodeWord.MAIN_PORT: str(port),
    }  # fmt: skip
    return [values.get(word, word) for word in command]


@contextmanager
def supervised(
    arguments: Sequence[str],
    deadlines: supervisor.Deadlines,
    environment: Mapping[str, str],
    python: str = sys.executable,
    **options: Any,
) -> Iterator[subprocess.Popen[str]]:
    """The supervisor of a Python process; the process and all that it started have ended when the context ends.

    arguments: of the interpreter `python`.  environment: variables besides this process's.  options: for
    subprocess.Popen.
    """
    variables = {**os.environ, **environment, **program_variables(deadlines)}
    process = supervisor.start([python, *arguments], deadlines, env=variables, **options)
    try:
        yield process
    finally:
        with defer_interrupts():
            supervisor.end(process, deadlines)


def program_variables(deadlines: supervisor.Deadlines) -> dict[str, str]:
    """The environment variables of a program wherever it runs."""
    return {
        **python_variables(),
        "PYTHONUNBUFFERED": "1",
        # torchrun would KILL its processes 30 s after INT.
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(math.ceil(deadlines.sigint_grace)),
    }


def describe_status(status: int | None) -> str:
    """An exit status as the predicate of a sentence; negative if a signal ended the program, None if unknown."""
    if status is None:
        return "failed"
    if status == -signal.SIGKILL:
        return "was killed (SIGKILL: mostly for want of memory)"
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"
