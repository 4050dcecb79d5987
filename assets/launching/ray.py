"""Programs as jobs of a Ray cluster: each on a node that has room for it, or on several (`assets.launching.ray_nodes`).

Ray stops a job by a signal to each of its processes, and by KILL after a time that the job may choose; so a program is
ended by its own supervisor, as on this machine.
"""

import shlex
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
from pydantic import Field

from assets.launching.backend import (
    POLL_INTERVAL,
    REQUEST_TIMEOUT,
    ClusterSettings,
    Context,
    Deadlines,
    Program,
    Reply,
    Watch,
    failure,
    last_lines,
    seconds_to_end,
    wait_until,
    with_retries,
)
from assets.launching.ray_nodes import NODES, Parts
from training.runtime.interrupts import defer_interrupts
from training.runtime.project import PROJECT

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

FOLDER = "future_l1_out"
"""The job's metadata that names the working folder."""
LEASE = "ray_job"
"""The file in a working folder that names the one job that may begin to work in it."""


class RaySettings(ClusterSettings):
    """Programs run as jobs of a Ray cluster."""

    kind: Literal["ray"] = "ray"
    """A Ray cluster."""
    address: str = "http://127.0.0.1:8265"
    """The URL of Ray's dashboard; its token, if it needs one, is RAY_AUTH_TOKEN of Dagster's environment."""
    resources: Mapping[str, float] = {}
    """Ray's custom resources for each program, on each of its nodes (`{"h100": 1}`)."""
    unreachable_timeout: float = Field(default=300.0, gt=0)
    """A dashboard that does not answer for so long fails the step."""


@dataclass(frozen=True)
class RayBackend:
    """Runs programs as Ray jobs, which wait there until a node has room."""

    settings: RaySettings
    deadlines: Deadlines

    def run(self, context: Context, programs: Sequence[Program], watch: Watch) -> None:
        """See `assets.launching.backend.Backend`."""
        cluster = _Cluster(self.settings, self.deadlines)
        with ExitStack() as stack:
            jobs = [stack.enter_context(self._submitted(context, cluster, one)) for one in programs]
            while living := [job for job in jobs if not job.has_ended()]:
                watch([job.program for job in living if job.has_started])
                time.sleep(POLL_INTERVAL)
            for job in jobs:
                job.raise_if_failed()

    @contextmanager
    def _submitted(self, context: Context, cluster: "_Cluster", program: Program) -> "Iterator[_Job]":
        """A program as a job, with its Pipes session, until the context ends."""
        from dagster_ray import PipesRayJobMessageReader

        name = f"{program.module}-{uuid.uuid4().hex[:12]}"
        lease = program.out / LEASE
        lease.write_text(name + "\n")
        cluster.end_earlier_jobs(program)
        (program.out / NODES).unlink(missing_ok=True)
        with dg.open_pipes_session(
            context=context,
            context_injector=dg.PipesEnvContextInjector(),
            message_reader=PipesRayJobMessageReader(),
        ) as session:
            try:
                pipes = session.get_bootstrap_env_vars()
                cluster.client.submit_job(**submission(self.settings, self.deadlines, program, name, pipes))
                context.log.info(f"{program.module} is Ray's job {name}")
                yield _Job(name, program, session, cluster)
            finally:
                lease.unlink(missing_ok=True)
                with defer_interrupts():
                    cluster.end(name)


def submission(
    settings: RaySettings, deadlines: Deadlines, program: Program, name: str, pipes: Mapping[str, str]
) -> dict[str, Any]:
    """Arguments of Ray's `submit_job`.  pipes: the variables of the program's Pipes session."""
    lease, project = shlex.quote(str(program.out / LEASE)), shlex.quote(str(PROJECT))
    command, resources = settings.command_for(program, deadlines), _resources(settings, program)
    if program.nodes > 1:  # the job itself needs nothing
        parts = Parts(program.nodes, resources, command, str(PROJECT), str(program.out))
        command, resources = [settings.python, *parts.arguments()], {}
    return {
        "submission_id": name,
        "entrypoint": f"grep -qx {name} {lease} && cd {project} && exec {shlex.join(command)}",
        "entrypoint_num_cpus": resources.pop("CPU", None),
        "entrypoint_num_gpus": resources.pop("GPU", None),
        "entrypoint_memory": resources.pop("memory", None),
        "entrypoint_resources": resources,
        "metadata": {FOLDER: str(program.out)},
        "runtime_env": {
            "env_vars": {
                **settings.environment_for(program, deadlines),
                **pipes,
                "RAY_JOB_STOP_SIGNAL": "SIGINT",
                "RAY_JOB_STOP_WAIT_TIME_S": str(seconds_to_end(deadlines)),
            }
        },
    }


def _resources(settings: RaySettings, program: Program) -> dict[str, float]:
    """What a program needs on each of its nodes, by Ray's names."""
    gpus, gib = settings.gpus_for(program), settings.gib_for(program)
    return {
        "CPU": settings.cpus_for(program),
        **({"GPU": gpus} if gpus else {}),
        **({"memory": gib * 2**30} if gib else {}),
        **settings.resources,
    }


class _Cluster:
    """Ray's jobs API; a request that fails is sent again for `unreachable_timeout` seconds."""

    def __init__(self, settings: RaySettings, deadlines: Deadlines) -> None:
        from ray.job_submission import JobSubmissionClient

        class Client(JobSubmissionClient):
            """Ray's own would wait for ever."""

            def _do_request(self, *arguments: Any, **options: Any) -> Any:
                return super()._do_request(*arguments, timeout=REQUEST_TIMEOUT, **options)

        self._settings = settings
        self._deadlines = deadlines
        try:
            self.client = Client(settings.address)
        except OSError as error:
            raise dg.Failure(f"{error} launch.backend.address is where Ray's dashboard answers.") from error

    def details(self, name: str) -> "JobDetails":
        """Status, metadata and exit code of a job."""
        return self._with_retries(lambda: self.client.get_job_info(name))

    def end_earlier_jobs(self, program: Program) -> None:
        """A job whose step was killed outright goes on: two programs must not work in one folder."""
        for name, details in self._living().items():
            if (details.metadata or {}).get(FOLDER) == str(program.out):
                self.end(name)

    def end(self, name: str) -> None:
        """End a job, and return only when it will do no more.

        Ray stops a job that waits for a node only when it has got one; without its lease it then does nothing.
        """
        from ray.job_submission import JobStatus

        def ended() -> bool:
            return (details := self._living().get(name)) is None or details.status == JobStatus.PENDING

        if name not in self._living():
            return
        self._with_retries(lambda: self.client.stop_job(name))
        if not wait_until(ended, self._deadlines):
            raise dg.Failure(
                f"Ray's job {name} was asked to stop and has not ended: see `ray job status {name} --address "
                f"{self._settings.address}`, and stop it before materialising again"
            )

    def _living(self) -> "dict[str, JobDetails]":
        """Every submitted job that has not ended."""
        jobs = self._with_retries(self.client.list_jobs)
        return {job.submission_id: job for job in jobs if job.submission_id and not job.status.is_terminal()}

    def _with_retries(self, ask: Callable[[], Reply]) -> Reply:
        # requests raises subclasses of OSError, and Ray's client RuntimeError for every other answer than it expects.
        return with_retries(ask, (OSError, RuntimeError), self._settings.unreachable_timeout, self._settings.address)


@dataclass
class _Job:
    """A submitted program."""

    name: str
    program: Program
    session: dg.PipesSession
    cluster: _Cluster
    is_read: bool = False
    """Whether a node runs it, or did, and its messages are read; until then nothing can be read."""

    @property
    def has_started(self) -> bool:
        """Whether it has all its nodes, or had."""
        return self.is_read and (self.program.nodes == 1 or (self.program.out / NODES).exists())

    def has_ended(self) -> bool:
        """Whether it has; from its first moment on a node its messages are read."""
        from dagster_ray.core.pipes import PIPES_LAUNCHED_EXTRAS_RAY_ADDRESS_KEY, PIPES_LAUNCHED_EXTRAS_RAY_JOB_ID_KEY
        from ray.job_submission import JobStatus

        status = self.cluster.details(self.name).status
        if not self.is_read and status != JobStatus.PENDING:
            address = {PIPES_LAUNCHED_EXTRAS_RAY_ADDRESS_KEY: self.cluster.client.get_address()}
            self.session.report_launched({"extras": {**address, PIPES_LAUNCHED_EXTRAS_RAY_JOB_ID_KEY: self.name}})
            self.is_read = True
        return bool(status.is_terminal())

    def raise_if_failed(self) -> None:
        """Raises dagster.Failure with the last lines of the program's log, from Ray."""
        from ray.job_submission import JobStatus

        details = self.cluster.details(self.name)
        if details.status == JobStatus.SUCCEEDED:
            return
        output = details.message or f"Ray's job {self.name} was stopped, but not by its step"
        if details.driver_exit_code is not None:  # the message has ten lines
            with suppress(OSError, RuntimeError):
                output = self.cluster.client.get_job_logs(self.name)
        raise failure(self.program, details.driver_exit_code, last_lines(output))
