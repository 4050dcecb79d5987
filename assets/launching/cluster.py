"""What the clusters' backends share: they are asked over a network, and read the programs' files where all nodes do."""

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import dagster as dg
from dagster_pipes import PIPES_PROTOCOL_VERSION_FIELD
from pydantic import BaseModel, ConfigDict, Field

from assets.launching.program import Deadlines, Program, Watch, every_programs_variables
from training.storage.hashing import digest

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_TO_KILL = 15
"""From a supervisor's KILL to the cluster's."""
SECONDS_TO_CONFIRM = 60.0
"""For the cluster to say that a program has ended, beyond what it is given to end."""
LINES_KEPT = 40

Answer = TypeVar("Answer")


class ClusterSettings(BaseModel):
    """What every cluster is told.

    The home folder, the data, this project and its Python environment lie at the same paths on a file system that all
    nodes share. Keys and tokens are in the nodes' own environment, never in what is submitted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    python: str = sys.executable
    """The interpreter there."""
    gpus: int = Field(default=1, ge=0)
    """For each process of a program, unless it was asked to work on the CPU; 0 on a cluster without any."""
    cpus: int = Field(default=1, ge=1)
    """For each process of a program."""
    memory_gib: float | None = Field(default=None, gt=0)
    """For each process of a program; None: whatever the cluster gives."""

    def gpus_for(self, program: Program) -> int:
        """For all its processes."""
        return self.gpus * program.processes if program.on_gpu else 0

    def cpus_for(self, program: Program) -> int:
        """For all its processes."""
        return self.cpus * program.processes

    def gib_for(self, program: Program) -> int | None:
        """For all its processes."""
        return None if self.memory_gib is None else math.ceil(self.memory_gib * program.processes)

    def command_for(self, program: Program, deadlines: Deadlines) -> list[str]:
        """A program under a supervisor, which on INT or TERM ends it and all that it started, with our deadlines."""
        seconds = [str(deadlines.seconds_to_checkpoint), str(deadlines.seconds_to_leave)]
        return [self.python, "-m", "training.runtime.supervisor", *seconds, self.python, *program.arguments]

    def environment_for(self, program: Program, deadlines: Deadlines) -> dict[str, str]:
        """Variables of a program besides those of the node that it runs on."""
        return {
            "OMP_NUM_THREADS": str(self.cpus),
            **every_programs_variables(deadlines),
            **program.environment,
        }


class Submitted(Protocol):
    """A program that was given to a cluster."""

    program: Program

    @property
    def has_started(self) -> bool:
        """Whether a node runs it, or did."""

    def has_ended(self) -> bool:
        """Whether it has, as the cluster says now."""

    def raise_if_failed(self) -> None:
        """Raises dagster.Failure with the last lines that the program said."""


def wait_for_all(submitted: Sequence[Submitted], watch: Watch) -> None:
    """Returns when the last program has ended; raises dagster.Failure, of the first that failed, or what `watch`
    raises."""
    while waited_for := [one for one in submitted if not one.has_ended()]:
        watch([one.program for one in waited_for if one.has_started])
        time.sleep(SECONDS_BETWEEN_LOOKS)
    for one in submitted:
        one.raise_if_failed()


def mark_of(program: Program) -> str:
    """By which a cluster knows the jobs of a working folder: its digest, as names are short."""
    return digest(str(program.out))


def seconds_to_end(deadlines: Deadlines) -> int:
    """What a supervisor is given to end its program, before the cluster kills them both."""
    return math.ceil(deadlines.seconds_to_checkpoint + deadlines.seconds_to_leave) + SECONDS_TO_KILL


def patiently(ask: Callable[[], Answer], errors: tuple[type[Exception], ...], seconds: float, whom: str) -> Answer:
    """What `ask` returns, asked again while it raises one of `errors`: a training outlives a hiccup of its cluster.

    Raises dagster.Failure, with the last error, when `whom` has not answered for so long.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except errors as error:
            if time.monotonic() > deadline:
                raise dg.Failure(f"{whom} has not answered for {seconds:.0f} s: {error}") from error
            time.sleep(SECONDS_BETWEEN_LOOKS)


def confirmed(ended: Callable[[], bool], deadlines: Deadlines) -> bool:
    """Whether it ended within the program's deadlines and the cluster's own time."""
    deadline = time.monotonic() + seconds_to_end(deadlines) + SECONDS_TO_CONFIRM
    while not (done := ended()) and time.monotonic() < deadline:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return done


def last_lines(said: str) -> Sequence[str]:
    """The end of what a program said, without its Pipes messages."""
    return [line for line in said.splitlines() if not _is_message(line)][-LINES_KEPT:]


def _is_message(line: str) -> bool:
    try:
        message = json.loads(line)
    except ValueError:
        return False
    return isinstance(message, Mapping) and PIPES_PROTOCOL_VERSION_FIELD in message
