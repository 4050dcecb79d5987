"""Backends, the places where programs run: their interface, and the common parts of those for clusters.

A cluster gets requests over a network, and its files lie on a file system of all nodes.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import dagster as dg
from dagster_pipes import PIPES_PROTOCOL_VERSION_FIELD
from pydantic import BaseModel, ConfigDict, Field

from training.runtime.launch import describe_status, program_variables
from training.runtime.programs import OUTAGE, read_failure
from training.runtime.supervisor import Deadlines as Deadlines

Context = dg.OpExecutionContext | dg.AssetExecutionContext
POLL_INTERVAL = 1.0
REQUEST_TIMEOUT = 60.0
"""Seconds without an answer from a cluster after which a request has failed."""
SECONDS_TO_KILL = 15
"""From a supervisor's KILL to the cluster's."""
SECONDS_TO_CONFIRM = 60.0
"""For the cluster to report that a program has ended, after the time that the program has to end."""
LINES_KEPT = 40

Reply = TypeVar("Reply")


@dataclass(frozen=True)
class Program:
    """One program to run: `arguments` follow the Python interpreter.

    out: its working folder, where progress, figures and the result will be.  num_processes: how many it starts of
    itself on all nodes, each with a device of its own where `on_gpu`.  environment: variables besides those of the
    process that starts it.  nodes: over how many its processes are spread; on each, the same arguments are started,
    with that node's values (`training.runtime.launch.on_node`).
    """

    module: str
    out: Path
    arguments: Sequence[str]
    num_processes: int
    on_gpu: bool
    environment: Mapping[str, str]
    nodes: int = 1

    @property
    def processes_per_node(self) -> int:
        return self.num_processes // self.nodes


Watch = Callable[[Sequence[Program]], None]
"""Called again and again with the programs that have started and still run (those that wait for a place, or for
devices, are not among them); raises dagster.Failure if they must be ended."""


class Backend(Protocol):
    """A place where programs run."""

    def run(self, context: Context, programs: Sequence[Program], watch: Watch) -> None:
        """Run programs side by side to the end of the last, with their Pipes messages handled.

        Whatever ends it early (the run is cancelled, `watch` raises) ends every program and what it started, and only
        then goes on.  A program that fails ends no other, whose work is kept: raises dagster.Failure, of the first
        that failed, when all have ended.
        """


def failure(program: Program, status: int | None, last_lines: Sequence[str]) -> dg.Failure:
    """The failure of a program, with the last lines of its stderr; retried where a server did not answer it.

    status: negative if a signal ended it; what the program itself has left counts before it.
    """
    status = read_failure(program.out) or status
    return dg.Failure(
        f"{program.module} {describe_status(status)} in {program.out}:\n" + "\n".join(last_lines),
        allow_retries=status == OUTAGE,
    )


class ClusterSettings(BaseModel):
    """Settings of every cluster.

    The home folder, the data, this project and its Python environment lie at the same paths on a file system that all
    nodes share. Keys and tokens are in the nodes' own environment, never in what is submitted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    python: str = sys.executable
    """The interpreter there."""
    gpus: int = Field(default=1, ge=0)
    """For each process of a program, unless its device is the CPU; 0 on a cluster without any."""
    cpus: int = Field(default=1, ge=1)
    """For each process of a program."""
    memory_gib: float | None = Field(default=None, gt=0)
    """For each process of a program; None: whatever the cluster gives."""

    def gpus_for(self, program: Program) -> int:
        """For all its processes on a node."""
        return self.gpus * program.processes_per_node if program.on_gpu else 0

    def cpus_for(self, program: Program) -> int:
        """For all its processes on a node."""
        return self.cpus * program.processes_per_node

    def gib_for(self, program: Program) -> int | None:
        """For all its processes on a node."""
        return None if self.memory_gib is None else math.ceil(self.memory_gib * program.processes_per_node)

    def command_for(self, program: Program, deadlines: Deadlines) -> list[str]:
        """A program under a supervisor, which on INT or TERM ends it and all that it started, with our deadlines."""
        seconds = [str(deadlines.sigint_grace), str(deadlines.sigterm_grace)]
        return [self.python, "-m", "training.runtime.supervisor", *seconds, self.python, *program.arguments]

    def environment_for(self, program: Program, deadlines: Deadlines) -> dict[str, str]:
        """Variables of a program besides those of the node that it runs on."""
        return {
            "OMP_NUM_THREADS": str(self.cpus),
            **program_variables(deadlines),
            **program.environment,
        }


def seconds_to_end(deadlines: Deadlines) -> int:
    """Seconds that a supervisor has to end its program before the cluster kills both."""
    return math.ceil(deadlines.sigint_grace + deadlines.sigterm_grace) + SECONDS_TO_KILL


def with_retries(
    request: Callable[[], Reply], errors: tuple[type[Exception], ...], seconds: float, server: str
) -> Reply:
    """Returns `request()`, called again while it raises one of `errors`: a short outage ends no training.

    Raises dagster.Failure, with the last error, when `server` has not answered for `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return request()
        except errors as error:
            if time.monotonic() > deadline:
                raise dg.Failure(f"{server} has not answered for {seconds:.0f} s: {error}") from error
            time.sleep(POLL_INTERVAL)


def wait_until(ended: Callable[[], bool], deadlines: Deadlines) -> bool:
    """Whether `ended` became true within the program's deadlines and the cluster's own time."""
    deadline = time.monotonic() + seconds_to_end(deadlines) + SECONDS_TO_CONFIRM
    while not (done := ended()) and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL)
    return done


def last_lines(output: str) -> Sequence[str]:
    """The last LINES_KEPT lines of a program's output, without its Pipes messages."""
    return [line for line in output.splitlines() if not _is_message(line)][-LINES_KEPT:]


def _is_message(line: str) -> bool:
    try:
        message = json.loads(line)
    except ValueError:
        return False
    return isinstance(message, Mapping) and PIPES_PROTOCOL_VERSION_FIELD in message
