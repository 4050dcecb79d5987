"""Programs as forks of a process that has imported torch and transformers, which takes each of them seconds.

Everything that a program does is the same; of how it is started, supervised and ended nothing is.
"""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import dagster as dg

from assets.launching.backend import Context, Program, Watch, failure
from training.runtime.launch import program_variables
from training.runtime.supervisor import Deadlines

IMPORTED = "tests.imported"
POLL_INTERVAL = 0.2


def fork(arguments: Sequence[str], environment: Mapping[str, str], output: Path | None = None) -> BaseProcess:
    """A process of Python with these arguments, `-m MODULE ...`, which writes to the end of a file, if one is named."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([IMPORTED])
    process = context.Process(target=_run, args=(tuple(arguments), dict(environment), output))
    process.start()
    return process


def _run(arguments: Sequence[str], environment: Mapping[str, str], output: Path | None) -> None:
    assert IMPORTED in sys.modules, "the fork server did not find what it is to import"
    if output is not None:
        with output.open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    _, module, *rest = arguments
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class ForkBackend:
    """A backend of the launcher (`assets.launching.backend.Backend`)."""

    def run(self, context: Context, programs: Sequence[Program], watch: Watch) -> None:
        with ExitStack() as stack:
            started = [(program, self._start(stack, context, program)) for program in programs]
            while living := [(program, process) for program, process in started if process.is_alive()]:
                watch([program for program, _ in living])
                connection.wait([process.sentinel for _, process in living], POLL_INTERVAL)
        for program, process in started:
            if process.exitcode != 0:
                raise failure(program, process.exitcode, ["its output is where that of the first fork's parent went"])

    def _start(self, stack: ExitStack, context: Context, program: Program) -> BaseProcess:
        session = stack.enter_context(
            dg.open_pipes_session(
                context=context,
                context_injector=dg.PipesEnvContextInjector(),
                message_reader=dg.PipesTempFileMessageReader(),
            )
        )
        variables = {**program_variables(Deadlines(1, 1)), **program.environment, **session.get_bootstrap_env_vars()}
        process = fork(program.arguments, {**os.environ, **variables})
        stack.callback(process.join)
        stack.callback(process.kill)
        return process
