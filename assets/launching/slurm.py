"""Programs as jobs of a Slurm cluster, one after another, through dagster-slurm.

dagster-slurm submits over SSH, follows the job and carries its messages. Two things it leaves to us: an interrupted
step ends its job (dagster-slurm lets it go on, unless the run is being cancelled), and no step takes over a job that
was submitted for another one (it would go by the asset, not by the partition).
"""

import os
import select
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
from pydantic import Field

from assets.launching.backend import (
    ClusterSettings,
    Context,
    Deadlines,
    Program,
    Watch,
    failure,
    last_lines,
    seconds_to_end,
    wait_until,
)
from assets.launching.slurm_queue import Queue
from assets.launching.slurm_script import lines_of_failed_node, script_of
from training.runtime.interrupts import defer_interrupts
from training.storage.hashing import digest

if TYPE_CHECKING:
    from dagster_slurm import BashLauncher, ComputeResource, SSHConnectionResource

TAGS = ("dagster_slurm/run_dir", "dagster_slurm/asset_key")
"""By which dagster-slurm finds the job of a run that failed, to take it over."""
FOREVER = 10**9
"""Seconds for dagster-slurm to follow a job: the watch and Slurm's time limit end it, as the profile says."""


class SlurmSettings(ClusterSettings):
    """Programs run as jobs of a Slurm cluster, submitted over SSH."""

    kind: Literal["slurm"] = "slurm"
    """A Slurm cluster."""
    host: str
    """A node where sbatch, squeue, scancel and scontrol are."""
    user: str
    """The user on the host."""
    port: int = 22
    """Of SSH on the host."""
    key: Path | None = None
    """The private SSH key; None: what ssh finds by itself (its agent, its own configuration)."""
    ssh_known_hosts: Path | None = None
    """Of ssh; None: the user's own."""
    folder: Path
    """On the shared file system: scripts and logs of jobs; those of failed jobs stay until the next start."""
    partition: str = ""
    """Of sbatch; empty: the cluster's default."""
    account: str | None = None
    """Of sbatch."""
    qos: str | None = None
    """Of sbatch."""
    time_limit: str = "24:00:00"
    """HH:MM:SS or D-HH:MM:SS; shortly before, a program is ended, and the next start goes on from its checkpoint."""
    poll_interval: float = Field(default=5.0, ge=1)
    """At the queue: each look is a command on the host."""
    unreachable_timeout: float = Field(default=300.0, gt=0)
    """A host that does not answer for so long fails the step."""


@dataclass(frozen=True)
class SlurmBackend:
    """Runs programs as Slurm jobs, one after another."""

    settings: SlurmSettings
    deadlines: Deadlines

    def run(self, context: Context, programs: Sequence[Program], watch: Watch) -> None:
        """See `assets.launching.backend.Backend`."""
        jobs = [_Job(self.settings, self.deadlines, context, program) for program in programs]
        failures = [failed for job in jobs if (failed := job.run(watch)) is not None]
        if failures:
            raise failures[0]


def compute(settings: SlurmSettings, deadlines: Deadlines, program: Program) -> "ComputeResource":
    """dagster-slurm's description of the cluster, and of what the program's processes need."""
    from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource
    from dagster_slurm.config import ExecutionMode

    queue = SlurmQueueConfig(
        partition=settings.partition,
        account=settings.account,
        qos=settings.qos,
        time_limit=settings.time_limit,
        signal_before_timeout=f"INT@{seconds_to_end(deadlines)}",
        num_nodes=program.nodes,
        cpus=settings.cpus_for(program),
        gpus_per_node=settings.gpus_for(program),
        mem=None,
    )
    slurm = SlurmResource(
        ssh=connection(settings),
        queue=queue,
        remote_base=str(folder_of(settings, program)),
        status_poll_interval_seconds=min(2.0, settings.poll_interval),
        status_poll_max_interval_seconds=settings.poll_interval,
    )
    return ComputeResource(
        mode=ExecutionMode.SLURM,
        slurm=slurm,
        default_launcher=launcher(settings, deadlines, program),
        pre_deployed_env_path=str(settings.folder),  # so that it packs none; the job's script names the interpreter
        cleanup_on_failure=False,
    )


def folder_of(settings: SlurmSettings, program: Program) -> Path:
    """The folder of scripts and logs of this program's jobs, by which they are found in the queue: names are short."""
    return settings.folder / digest(str(program.out))


def connection(settings: SlurmSettings) -> "SSHConnectionResource":
    """The SSH connection to the host; never by a password."""
    from dagster_slurm import SSHConnectionResource

    return SSHConnectionResource(
        host=settings.host,
        port=settings.port,
        user=settings.user,
        key_path=None if settings.key is None else str(settings.key),
        known_hosts_file=None if settings.ssh_known_hosts is None else str(settings.ssh_known_hosts),
    )


def launcher(settings: SlurmSettings, deadlines: Deadlines, program: Program) -> "BashLauncher":
    """The writer of the job's script: dagster-slurm's own starts Python files in environments that it packed."""
    from dagster_slurm import BashLauncher
    from dagster_slurm.config import RuntimeVariant
    from dagster_slurm.launchers.base import ExecutionPlan

    class ProgramLauncher(BashLauncher):
        def prepare_execution(
            self,
            payload_path: str,
            python_executable: str,
            working_dir: str,
            pipes_context: dict[str, str],
            *_: Any,
            **__: Any,
        ) -> ExecutionPlan:
            script = script_of(settings, deadlines, program, pipes_context)
            return ExecutionPlan(RuntimeVariant.SHELL, script, environment=pipes_context, resources={})

    return ProgramLauncher()


@dataclass
class _Job:
    """A program's job."""

    settings: SlurmSettings
    deadlines: Deadlines
    context: Context
    program: Program
    stopping: set[str] = field(default_factory=set)
    """Numbers of jobs that were requested to stop."""
    ended_by: BaseException | None = None

    @cached_property
    def queue(self) -> Queue:
        ssh = connection(self.settings).get_ssh_base_command()
        folder = folder_of(self.settings, self.program)
        return Queue(ssh, self.settings.host, folder, self.settings.unreachable_timeout)

    def run(self, watch: Watch) -> dg.Failure | None:
        """To its end, for certain; how it failed, if it did.  Raises what ended it early."""
        self._end()  # one whose step was killed outright goes on: two programs must not work in one folder
        before = {job.number for job in self.queue.jobs()}
        shutil.rmtree(self.queue.folder, ignore_errors=True)  # its messages are not ours
        config, gib = str(self.program.out / "config.json"), self.settings.gib_for(self.program)
        failed: RuntimeError | None = None
        try:
            with self._watched(watch):
                compute(self.settings, self.deadlines, self.program).run(
                    context=self.context,
                    payload_path=config,
                    skip_payload_upload=True,
                    remote_payload_path=config,
                    extra_slurm_opts=None if gib is None else {"mem": f"{gib}G"},
                    poll_timeout=FOREVER,
                )
        except RuntimeError as error:  # whatever is wrong with the job or the host
            failed = error
        finally:
            with defer_interrupts():
                self._end()
        if self.ended_by is not None:
            raise self.ended_by
        return None if failed is None else self._failure(failed, before)

    @contextmanager
    def _watched(self, watch: Watch) -> Iterator[None]:
        """dagster-slurm has this thread, and keeps signals from it; another thread watches the job and gets them."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        thread = threading.Thread(target=self._poll, args=(watch, reader), daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            os.close(writer)
            thread.join()
            os.close(reader)

    def _poll(self, watch: Watch, signals: int) -> None:
        """Watches the job until the other end of the pipe `signals` is closed."""
        while True:
            if select.select([signals], [], [], self.settings.poll_interval)[0]:
                numbers = os.read(signals, 4096)
                if not numbers:
                    return
                if not {signal.SIGINT, signal.SIGTERM}.isdisjoint(numbers):
                    self.ended_by = self.ended_by or dg.DagsterExecutionInterruptedError()
            try:
                self._forget_job_of_run()
                living = self.queue.living()
                if self.ended_by is None and any(job.state == "RUNNING" for job in living):
                    watch([self.program])
            except Exception as error:  # nobody else would hear of it
                self.ended_by = self.ended_by or error
            if self.ended_by is not None:
                with suppress(dg.Failure):  # the end of the step tries again, and says so
                    self.stopping |= self.queue.request_stop(but=self.stopping)

    def _forget_job_of_run(self) -> None:
        """So that no other step takes it over."""
        run = self.context.instance.get_run_by_id(self.context.run_id)
        if run is not None and any(run.tags.get(tag) for tag in TAGS):
            self.context.instance.add_run_tags(self.context.run_id, dict.fromkeys(TAGS, ""))

    def _end(self) -> None:
        """End what is left of this program's jobs, and return only when Slurm says that they have ended."""
        self.queue.request_stop()
        if not wait_until(lambda: not self.queue.living(), self.deadlines):
            numbers = ", ".join(job.number for job in self.queue.living())
            raise dg.Failure(
                f"Slurm's job {numbers} was asked to end and has not: see `scontrol show job {numbers}` on "
                f"{self.settings.host}, and end it before materialising again"
            )

    def _failure(self, error: RuntimeError, before: Set[str]) -> dg.Failure:
        """With the last lines of the program's log; if there was no job, with dagster-slurm's message."""
        last = next((job for job in self.queue.jobs() if job.number not in before), None)
        if last is None:
            return failure(self.program, None, [str(error)])
        logs = [Path(last.folder) / f"slurm-{last.number}.{stream}" for stream in ("out", "err")]
        output = "\n".join(log.read_text(errors="replace") for log in logs if log.is_file())
        why = [] if last.state == "FAILED" else [f"Slurm's job {last.number}: {last.state}"]
        return failure(self.program, self.queue.status(last.number), [*why, *last_lines(lines_of_failed_node(output))])
