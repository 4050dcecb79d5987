"""Programs on this machine, each the leader of its own process group, and the group reliably ended.

Dagster's own subprocess client signals the direct child only, never kills, and frees the pool slot while a stubborn
training or its grandchildren still hold the device. Here, when the step is cancelled or fails, the whole group gets
INT (write a checkpoint and leave), TERM and KILL, each with a deadline, and the step ends only when nobody is left. A
program whose step is killed outright ends itself (`training.tether`).
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, Literal

import dagster as dg
import psutil
from pydantic import BaseModel, ConfigDict

from assets.launching.program import PROJECT, Context, Deadlines, Program, Watch, failure, op_context
from training.programs import TETHERED

SECONDS_BETWEEN_LOOKS = 0.2
LINES_KEPT = 40


class LocalSettings(BaseModel):
    """Programs run on this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["local"] = "local"


class LocalBackend:
    """Runs programs as processes of this machine, which share the processor's cores."""

    def __init__(self, settings: LocalSettings, deadlines: Deadlines) -> None:
        self._settings = settings
        self._deadlines = deadlines

    def run(self, context: Context, programs: Sequence[Program], watch: Watch) -> None:
        """See `assets.launching.program.Backend`."""
        cores = max(1, (os.cpu_count() or 1) // len(programs))
        shared = {"OMP_NUM_THREADS": str(cores)} if len(programs) > 1 else {}
        with ExitStack() as stack:
            running = [stack.enter_context(self._started(context, program, shared)) for program in programs]
            processes = [process for process, _ in running]
            while living := [i for i, process in enumerate(processes) if process.poll() is None]:
                watch([programs[i] for i in living])
                with suppress(subprocess.TimeoutExpired):
                    processes[living[0]].wait(SECONDS_BETWEEN_LOOKS)
        for program, (process, last_lines) in zip(programs, running, strict=True):
            if process.returncode != 0:
                raise failure(program, process.returncode, last_lines)

    @contextmanager
    def _started(
        self, context: Context, program: Program, shared: Mapping[str, str]
    ) -> "Iterator[tuple[subprocess.Popen[str], deque[str]]]":
        """A program in its own group, with its Pipes session, until the context ends."""
        command = [sys.executable, "-m", "training.tether", str(os.getpid()), sys.executable, *program.arguments]
        with dg.open_pipes_session(
            context=op_context(context),
            context_injector=dg.PipesEnvContextInjector(),
            message_reader=dg.PipesTempFileMessageReader(),
        ) as session:
            environment = {
                **os.environ,
                **shared,
                **program.environment,
                **session.get_bootstrap_env_vars(),
                TETHERED: "1",
                "PYTHONPATH": os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            }
            with self._group(command, environment) as group:
                yield group

    @contextmanager
    def _group(
        self, command: list[str], environment: Mapping[str, str]
    ) -> Iterator[tuple[subprocess.Popen[str], deque[str]]]:
        process = subprocess.Popen(
            command, env=dict(environment), start_new_session=True, stderr=subprocess.PIPE, text=True, errors="replace"
        )
        assert process.stderr is not None
        last_lines: deque[str] = deque(maxlen=LINES_KEPT)
        copier = threading.Thread(target=_copy_lines, args=(process.stderr, last_lines), daemon=True)
        copier.start()
        try:
            yield process, last_lines
        finally:
            with _no_further_interrupts():
                end_group(process, self._deadlines)
            copier.join()


def end_group(process: subprocess.Popen[str], deadlines: Deadlines) -> None:
    """End every process of the group that `process` leads, and return only when none is left.

    A leader that has ended already gets no INT: it wrote what it had to write, and only stragglers remain.
    """
    steps = [
        (signal.SIGINT, deadlines.seconds_to_checkpoint),
        (signal.SIGTERM, deadlines.seconds_to_leave),
        (signal.SIGKILL, 60.0),
    ]
    for number, seconds in steps[1:] if process.poll() is not None else steps:
        if not members(process.pid):
            break
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        _wait_until(lambda: process.poll() is not None and not members(process.pid), seconds)
    process.wait()


def members(group: int) -> list[int]:
    """The living processes of a process group (zombies hold nothing and count as ended)."""
    living = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                living.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return living


def _wait_until(done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(SECONDS_BETWEEN_LOOKS / 4)


def _copy_lines(stream: IO[str], last_lines: deque[str]) -> None:
    for line in stream:
        sys.stderr.write(line)
        last_lines.append(line.rstrip("\n"))


@contextmanager
def _no_further_interrupts() -> Iterator[None]:
    """Let an impatient second Ctrl-C wait until the group is gone."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
