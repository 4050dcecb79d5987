"""The interface of a backend, which is a place where programs run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import dagster as dg

from training.runtime.launch import describe_status
from training.runtime.programs import OUTAGE
from training.runtime.supervisor import Deadlines as Deadlines

Context = dg.OpExecutionContext | dg.AssetExecutionContext


@dataclass(frozen=True)
class Program:
    """One program to run: `arguments` follow the Python interpreter.

    out: its working folder, where progress, figures and the result will be.  processes: how many it starts of itself,
    each with a device of its own where `on_gpu`.  environment: variables besides those of the process that starts it.
    """

    module: str
    out: Path
    arguments: Sequence[str]
    num_processes: int
    on_gpu: bool
    environment: Mapping[str, str]


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

    status: negative if a signal ended it.
    """
    return dg.Failure(
        f"{program.module} {describe_status(status)} in {program.out}:\n" + "\n".join(last_lines),
        allow_retries=status == OUTAGE,
    )
