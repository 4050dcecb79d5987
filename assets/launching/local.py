"""Programs on this machine, each with devices of its own and a supervisor, and for certain ended.

Dagster's own subprocess client signals the direct child only, never kills, and frees the pool slot while a stubborn
training or its grandchildren still hold the device. Here, when the step is cancelled or fails, all that a program
started gets INT (write a checkpoint and leave), TERM and KILL, each with a deadline, and the step ends only when nobody
is left. Of a step that is killed outright, the program's supervisor does the same (`training.runtime.supervisor`).
"""

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any, Literal

import dagster as dg
from pydantic import BaseModel, ConfigDict

from assets.launching.backend import (
    Context,
    Deadlines,
    Program,
    Watch,
    failure,
)
from training.runtime import supervisor
from training.runtime.devices import (
    NO_DEVICES,
    Claim,
    TooFewDevicesError,
    check_enough,
    try_claim,
    visible,
    waiting_message,
)
from training.runtime.launch import supervised

POLL_INTERVAL = 0.2
LINES_KEPT = 40
"""Of each process."""


class LocalSettings(BaseModel):
    """Programs run on this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["local"] = "local"
    """This machine."""
    devices: tuple[str, ...] | None = None
    """The GPUs, by UUID (`nvidia-smi -L`), that programs may have, and MIG's parts of them; None: all that are visible
    here, and on a machine without any no program needs one."""


@dataclass(frozen=True)
class _Started:
    """A program's supervisor, and the end of what the program says on stderr."""

    program: Program
    supervisor: subprocess.Popen[str]
    last_lines: deque[str]

    @property
    def lives(self) -> bool:
        return self.supervisor.poll() is None


@dataclass(frozen=True)
class LocalBackend:
    """Runs programs as processes of this machine, which share the processor's cores; a GPU is one program's."""

    settings: LocalSettings
    deadlines: Deadlines

    def run(self, context: Context, programs: Sequence[Program], watch: Watch) -> None:
        """See `assets.launching.backend.Backend`.

        All programs run that find enough free devices; the others wait for theirs. Raises dagster.Failure at once,
        without retries, if one needs more devices than there are.
        """
        devices = self._devices(programs)
        waiting, logged, started = dict(enumerate(programs)), set[int](), dict[int, _Started]()
        with ExitStack() as stack, _request_all_to_stop(started):
            while waiting or any(one.lives for one in started.values()):
                for i, program in tuple(waiting.items()):
                    if (claim := _claim(program, devices)) is not None:
                        with claim:  # until the program has inherited it
                            started[i] = stack.enter_context(self._started(context, program, claim, len(programs)))
                        del waiting[i]
                    elif i not in logged:
                        logged.add(i)
                        context.log.info(f"{program.out}: {waiting_message(devices, program.num_processes)}")
                living = [one for one in started.values() if one.lives]
                watch([one.program for one in living])
                _wait_for_first(living)
        for _, one in sorted(started.items()):
            if one.supervisor.returncode != 0:
                raise failure(one.program, one.supervisor.returncode, one.last_lines)

    def _devices(self, programs: Sequence[Program]) -> tuple[str, ...]:
        """Those that programs claim from; none if none of them wants one, or there is none and they may do without."""
        wanting = [program for program in programs if program.on_gpu]
        if not wanting:
            return ()
        devices = visible() if self.settings.devices is None else self.settings.devices
        if self.settings.devices is None and not devices:
            return ()
        try:
            check_enough(devices, max(program.num_processes for program in wanting))
        except TooFewDevicesError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        return devices

    @contextmanager
    def _started(self, context: Context, program: Program, claim: Claim, max_parallel: int) -> Iterator[_Started]:
        """A program under a supervisor, with its Pipes session, until the context ends."""
        cores = max(1, (os.cpu_count() or 1) // max_parallel)
        with dg.open_pipes_session(
            context=context,
            context_injector=dg.PipesEnvContextInjector(),
            message_reader=dg.PipesTempFileMessageReader(),
        ) as session:
            environment = {
                **({"OMP_NUM_THREADS": str(cores)} if max_parallel > 1 else {}),
                **program.environment,
                **claim.environment,
                **session.get_bootstrap_env_vars(),
            }
            last_lines: deque[str] = deque(maxlen=LINES_KEPT * program.num_processes)
            options: dict[str, Any] = {"pass_fds": claim.descriptors, "stderr": subprocess.PIPE, "errors": "replace"}
            with (
                ThreadPoolExecutor(1) as copier,
                supervised(program.arguments, self.deadlines, environment, **options) as process,
            ):
                assert process.stderr is not None
                copier.submit(_copy_lines, process.stderr, last_lines)
                yield _Started(program, process, last_lines)


def _claim(program: Program, devices: Sequence[str]) -> Claim | None:
    """The devices of a program, which may be none; None while too few are free."""
    return try_claim(devices, program.num_processes) if devices and program.on_gpu else NO_DEVICES


@contextmanager
def _request_all_to_stop(started: Mapping[int, _Started]) -> Iterator[None]:
    """Requests all programs to stop when the context ends: they checkpoint together, before each is waited for."""
    try:
        yield
    finally:
        for one in started.values():
            supervisor.request_stop(one.supervisor)


def _wait_for_first(living: Sequence[_Started]) -> None:
    """Returns when the first of them has ended, at the latest after POLL_INTERVAL seconds."""
    if not living:
        time.sleep(POLL_INTERVAL)
        return
    with suppress(subprocess.TimeoutExpired):
        living[0].supervisor.wait(POLL_INTERVAL)


def _copy_lines(stream: IO[str], last_lines: deque[str]) -> None:
    for line in stream:
        sys.stderr.write(line)
        last_lines.append(line.rstrip("\n"))
