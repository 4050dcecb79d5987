"""Starts GPU programs for assets, watches them, and brings back what they made.

Where they run is the backend's business (`assets.launching`); what they report is in their working folders.
"""

import json
import multiprocessing
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import dagster as dg
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from assets.launching.backend import Backend, Context, Deadlines, Program
from assets.launching.local import LocalBackend, LocalSettings
from assets.launching.ray import RayBackend, RaySettings
from assets.launching.slurm import SlurmBackend, SlurmSettings
from training.runtime.launch import NodeWord, Start
from training.runtime.programs import RESULT, last_report_time, read_progress
from training.runtime.project import PROJECT

Progress = Callable[[int, int, str], None]


def _project_file(path: Path) -> Path:
    """An absolute path, of a file in the project if it is relative.  Raises ValueError where there is no file."""
    if not (file := PROJECT / path).is_file():
        raise ValueError(f"there is no file {file}")
    return file


ProgressParam = dg.ResourceParam[Progress]


class LaunchSettings(BaseModel):
    """The start of programs, and the limits of their time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: LocalSettings | RaySettings | SlurmSettings = Field(default=LocalSettings(), discriminator="kind")
    """The place where programs run: this machine, or a cluster."""
    num_processes: Mapping[str, PositiveInt] = {}
    """Processes per program (`{"training.sft": 8}`), on all its nodes; more than one are started by `accelerate
    launch`."""
    nodes: Mapping[str, PositiveInt] = {}
    """Nodes of a cluster per program, over which its processes are spread evenly; 1 where nothing is said."""
    accelerate_config: Mapping[str, Annotated[Path, AfterValidator(_project_file)]] = {}
    """The file per program for `accelerate launch --config_file`: FSDP or ZeRO, precision. Relative to the project;
    without one, several processes hold a whole model each (DDP). Its processes, machines, address and port do not
    count."""
    max_parallel: Mapping[str, PositiveInt] = {}
    """Programs that one step runs at the same time (`{"evaluation.generate": 8}`), where it has work for several."""
    environment: Mapping[str, str] = {}
    """Variables to add; never secrets, which programs read from the environment they inherit."""
    sigint_grace: float = Field(default=120.0, gt=0)
    """Seconds from SIGINT to SIGTERM: what a program needs to write its checkpoint."""
    sigterm_grace: float = Field(default=15.0, gt=0)
    """Seconds from SIGTERM to SIGKILL."""
    heartbeat_timeout: float | None = Field(default=None, gt=0)
    """Seconds without progress, metrics or a log line after which a program is ended as hanging; None: never."""
    timeout: Mapping[str, PositiveFloat] = {}
    """Seconds per program after which it is ended, having written its checkpoint; the next start resumes from there."""

    @field_validator("environment")
    @classmethod
    def _holds_no_secrets(cls, environment: Mapping[str, str]) -> Mapping[str, str]:
        for name in environment:
            if name.upper().endswith(("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")):
                raise ValueError(f"{name} looks like a secret, and job scripts hold these variables: set it in the "
                                 "environment that Dagster starts in, or on the nodes")  # fmt: skip
        return environment

    @model_validator(mode="after")
    def _processes_divide_over_nodes(self) -> "LaunchSettings":
        for program, nodes in self.nodes.items():
            processes = self.num_processes.get(program, 1)
            if nodes > 1 and isinstance(self.backend, LocalSettings):
                raise ValueError(
                    f"nodes: {program} cannot run on {nodes}, because launch.backend is this machine alone: choose "
                    "ray or slurm there, or start each node by hand (docs/training.md)"
                )
            if rest := processes % nodes:
                fitting = [n for n in (processes - rest, processes - rest + nodes) if n]
                raise ValueError(
                    f"nodes: the processes of {program}, {processes}, do not divide over {nodes} nodes: start "
                    f"{' or '.join(map(str, fitting))} (launch.num_processes), or change launch.nodes"
                )
        for program, file in self.accelerate_config.items():
            machines = re.search(r"^num_machines: *(\d+)", file.read_text(), re.MULTILINE)
            if machines and int(machines[1]) not in (1, nodes := self.nodes.get(program, 1)):
                raise ValueError(
                    f"accelerate_config: {file} has num_machines {machines[1]}, and launch.nodes {nodes} for "
                    f"{program}: the profile's number counts; delete the file's, or make both alike"
                )
        return self

    @property
    def deadlines(self) -> Deadlines:
        return Deadlines(self.sigint_grace, self.sigterm_grace)


class Launcher:
    """Runs programs for assets; `progress` receives their progress."""

    def __init__(self, settings: LaunchSettings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress
        self._backend = backend_for(settings)

    def max_parallel(self, module: str) -> int:
        """The number of programs of this name that run side by side."""
        return self._settings.max_parallel.get(module, 1)

    def run_parallel(self, context: Context, starts: Sequence[Start]) -> list[dict[str, Any]]:
        """Run programs side by side to the end of the last; their results in order.

        The program's own model of its config is beside its imports of torch, so it is the program that validates.
        Raises dagster.Failure with the last lines of stderr of the first that failed, when all have ended; without
        retries if it refused the config; or saying which one was silent or ran for too long, when all have been ended.
        """
        programs = [program_of(self._settings, start) for start in starts]
        watch = _Watch(self._settings, self._progress)
        self._backend.run(context, programs, watch)
        watch.report(programs)
        return [json.loads((start.out / RESULT).read_text()) for start in starts]


def backend_for(settings: LaunchSettings) -> Backend:
    """The place where programs run."""
    match settings.backend:
        case LocalSettings() as local:
            return LocalBackend(local, settings.deadlines)
        case RaySettings() as ray:
            return RayBackend(ray, settings.deadlines)
        case SlurmSettings() as slurm:
            return SlurmBackend(slurm, settings.deadlines)


def program_of(settings: LaunchSettings, start: Start) -> Program:
    """The program of a start, its config written: under `accelerate launch` where it has several processes."""
    num_processes, nodes = settings.num_processes.get(start.module, 1), settings.nodes.get(start.module, 1)
    arguments = start.arguments()
    if num_processes > 1:
        file = settings.accelerate_config.get(start.module)
        options = ["--config_file", str(file)] if file else ["--multi_gpu"]  # also where a node has one GPU
        launch = ["-m", "accelerate.commands.launch", "--num_processes", str(num_processes)]
        arguments = [*launch, *_machine_options(nodes), *options, *arguments]
    on_gpu = start.config.get("device", "auto") != "cpu"
    return Program(start.module, start.out, arguments, num_processes, on_gpu, settings.environment, nodes)


def _machine_options(nodes: int) -> list[str]:
    """The options of `accelerate launch` about machines, before which no file's count."""
    if nodes == 1:
        return ["--num_machines", "1", "--main_process_port", "0"]  # any free one: two programs do not meet
    return [
        *("--num_machines", str(nodes), "--machine_rank", NodeWord.RANK),
        *("--main_process_ip", NodeWord.MAIN_ADDRESS, "--main_process_port", NodeWord.MAIN_PORT),
        *("--deepspeed_multinode_launcher", "standard"),  # its default would start the other nodes by ssh
    ]


class _Watch:
    """Reports progress, and ends a program that is silent or runs for too long, measured from its own start."""

    def __init__(self, settings: LaunchSettings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress
        self._reported: dict[Path, tuple[int, int, str]] = {}
        self._begun: dict[Path, float] = {}

    def __call__(self, running: Sequence[Program]) -> None:
        _check_parent()
        self.report(running)
        for program in running:
            self._end_if_overdue(program)

    def report(self, programs: Sequence[Program]) -> None:
        """Reports the progress of each program where it has changed."""
        for program in programs:
            now = read_progress(program.out)
            if now is not None and now != self._reported.get(program.out):
                self._progress(*now)
                self._reported[program.out] = now

    def _end_if_overdue(self, program: Program) -> None:
        begun = self._begun.setdefault(program.out, time.time())
        silent, most_silent = time.time() - max(begun, last_report_time(program.out)), self._settings.heartbeat_timeout
        if most_silent is not None and silent > most_silent:
            raise dg.Failure(f"{program.module} in {program.out} has reported nothing for {silent:.0f} s: it hangs")
        ran, most = time.time() - begun, self._settings.timeout.get(program.module)
        if most is not None and ran > most:
            raise dg.Failure(f"{program.module} in {program.out} has run for {ran:.0f} s, longer than "
                             "launch.timeout; materialise again to go on from its checkpoint")  # fmt: skip


def _check_parent() -> None:
    """A step in a process of its own outlives its run's, when that is killed; nobody would hear of what it does."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise dg.Failure(f"the run's own process ({parent.pid}) has ended; materialise again to go on from here")


LauncherParam = dg.ResourceParam[Launcher]
