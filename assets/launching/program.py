"""What every place where programs run is asked, and what it owes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import dagster as dg

from training.programs import CONFIG_ERROR

Context = dg.OpExecutionContext | dg.AssetExecutionContext
PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Program:
    """One program to run: `arguments` follow the Python interpreter.

    out: its working folder, where progress, figures and the result will be.  processes: how many it starts of itself,
    each with a device of its own where `on_gpu`.  environment: variables besides those of whoever starts it.
    """

    module: str
    out: Path
    arguments: Sequence[str]
    processes: int
    on_gpu: bool
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Deadlines:
    """seconds_to_checkpoint: from INT to TERM.  seconds_to_leave: from TERM to KILL."""

    seconds_to_checkpoint: float
    seconds_to_leave: float


Watch = Callable[[Sequence[Program]], None]
"""Called again and again with the programs that still run; raises dagster.Failure if one must be ended."""


class Backend(Protocol):
    """A place where programs run."""

    def run(self, context: Context, programs: Sequence[Program], watch: Watch) -> None:
        """Run programs side by side to the end of the last, with their Pipes messages handled.

        Whatever ends it early (the run is cancelled, `watch` raises) ends every program and what it started, and only
        then goes on.  Raises dagster.Failure, of the first that failed, when all have ended.
        """


def failure(program: Program, status: int | None, last_lines: Sequence[str]) -> dg.Failure:
    """How a program failed, with the last lines that it said; without retries if it refused its config."""
    how = f"ended with status {status}" if status is not None else "failed"
    return dg.Failure(
        f"{program.module} {how} in {program.out}:\n" + "\n".join(last_lines), allow_retries=status != CONFIG_ERROR
    )


def op_context(context: Context) -> dg.OpExecutionContext:
    """What Pipes sessions want to be given."""
    return context.op_execution_context if isinstance(context, dg.AssetExecutionContext) else context
