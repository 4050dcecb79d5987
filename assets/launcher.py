"""Starts, watches and reliably stops a GPU program.

Dagster's own subprocess client signals the direct child only, never kills, and frees the pool slot while a stubborn
training or its grandchildren still hold the device. Here a program leads its own process group; when the step is
cancelled or fails, the whole group gets INT (write a checkpoint and leave), TERM and KILL, each with a deadline, and
the step ends only when nobody is left. A program whose step is killed outright ends itself (`training.tether`).
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import dagster as dg
import psutil
from pydantic import BaseModel, ConfigDict

from training.programs import CONFIG_ERROR, RESULT, TETHERED, last_sign, read_progress

Progress = Callable[[int, int, str], None]
Context = dg.OpExecutionContext | dg.AssetExecutionContext

PROJECT = Path(__file__).resolve().parents[1]
SECONDS_BETWEEN_LOOKS = 0.2
LINES_KEPT = 40


class LaunchSettings(BaseModel):
    """How programs are started on this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    processes: Mapping[str, int] = {}
    """Processes per program (`{"training.sft": 8}`); more than one goes through `accelerate launch`."""
    accelerate_config: Mapping[str, Path] = {}
    """The file per program for `accelerate launch --config_file`: FSDP or ZeRO, precision, machines. Relative to the
    project; without one, several processes hold a whole model each (DDP)."""
    together: int = 1
    """Programs side by side, where a run has work for several and the machine has room for them."""
    environment: Mapping[str, str] = {}
    """Variables to add; never secrets, which programs read from the environment they inherit."""
    seconds_to_checkpoint: float = 120.0
    """From INT to TERM: what a program needs to write its checkpoint."""
    seconds_to_leave: float = 15.0
    """From TERM to KILL."""
    seconds_silent: float | None = None
    """A program that says nothing for so long (no progress, figures, log line) hangs and is ended; None: never."""


def command_for(settings: LaunchSettings, module: str, config: Path) -> list[str]:
    """The program's command line, behind the tether that ends it with its parent."""
    processes = settings.processes.get(module, 1)
    program = ["-m", module, "--config", str(config)]
    if processes > 1:
        file = settings.accelerate_config.get(module)
        options = ["--config_file", str(PROJECT / file)] if file else []
        program = ["-m", "accelerate.commands.launch", "--num_processes", str(processes), *options, *program]
    return [sys.executable, "-m", "training.tether", str(os.getpid()), sys.executable, *program]


@dataclass(frozen=True)
class Start:
    """One program to run: its module, its working folder, and the other fields of its config."""

    module: str
    out: Path
    config: Mapping[str, Any]


class Launcher:
    """Runs programs for assets; `progress` hears where they are."""

    def __init__(self, settings: LaunchSettings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress

    @property
    def together(self) -> int:
        """How many programs this machine runs side by side."""
        return self._settings.together

    def run_together(self, context: Context, starts: Sequence[Start]) -> list[dict[str, Any]]:
        """Run programs side by side, sharing the processor's cores, to the end of the last; their results in order.

        The program's own model of its config is beside its imports of torch, so it is the program that validates.
        Raises dagster.Failure with the last lines of stderr of the first that failed, when all have ended; without
        retries if it refused the config; or saying which one was silent for too long, when all have been ended.
        """
        cores = max(1, (os.cpu_count() or 1) // len(starts))
        shared = {"OMP_NUM_THREADS": str(cores)} if len(starts) > 1 else {}
        with ExitStack() as stack:
            running = [stack.enter_context(self._started(context, start, shared)) for start in starts]
            self._watch([process for process, _ in running], starts)
        for start, (process, last_lines) in zip(starts, running, strict=True):
            if process.returncode != 0:
                raise dg.Failure(
                    f"{start.module} ended with status {process.returncode} in {start.out}:\n" + "\n".join(last_lines),
                    allow_retries=process.returncode != CONFIG_ERROR,
                )
        return [json.loads((start.out / RESULT).read_text()) for start in starts]

    @contextmanager
    def _started(
        self, context: Context, start: Start, shared: Mapping[str, str]
    ) -> "Iterator[tuple[subprocess.Popen[str], deque[str]]]":
        """A program in its own group, with its Pipes session, until the context ends."""
        start.out.mkdir(parents=True, exist_ok=True)
        (start.out / RESULT).unlink(missing_ok=True)
        path = start.out / "config.json"
        path.write_text(json.dumps({"out": str(start.out), **start.config}, indent=1))
        command = command_for(self._settings, start.module, path)
        with dg.open_pipes_session(
            context=context.op_execution_context if isinstance(context, dg.AssetExecutionContext) else context,
            context_injector=dg.PipesEnvContextInjector(),
            message_reader=dg.PipesTempFileMessageReader(),
        ) as session:
            environment = {
                **os.environ,
                **shared,
                **self._settings.environment,
                **session.get_bootstrap_env_vars(),
                TETHERED: "1",
                "PYTHONUNBUFFERED": "1",
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
                end_group(process, self._settings.seconds_to_checkpoint, self._settings.seconds_to_leave)
            copier.join()

    def _watch(self, processes: Sequence[subprocess.Popen[str]], starts: Sequence[Start]) -> None:
        seen: dict[Path, tuple[int, int, str]] = {}
        begun = time.time()
        while any(process.poll() is None for process in processes):
            with suppress(subprocess.TimeoutExpired):
                next((p for p in processes if p.poll() is None), processes[0]).wait(SECONDS_BETWEEN_LOOKS)
            for process, start in zip(processes, starts, strict=True):
                now = read_progress(start.out)
                if now is not None and now != seen.get(start.out):
                    self._progress(*now)
                    seen[start.out] = now
                silent, most = time.time() - max(begun, last_sign(start.out)), self._settings.seconds_silent
                if process.poll() is None and most is not None and silent > most:
                    raise dg.Failure(f"{start.module} in {start.out} has said nothing for {silent:.0f} s: it hangs")


def end_group(process: subprocess.Popen[str], seconds_to_checkpoint: float, seconds_to_leave: float) -> None:
    """End every process of the group that `process` leads, and return only when none is left.

    A leader that has ended already gets no INT: it wrote what it had to write, and only stragglers remain.
    """
    steps = [(signal.SIGINT, seconds_to_checkpoint), (signal.SIGTERM, seconds_to_leave), (signal.SIGKILL, 60.0)]
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
