"""The jobs that Slurm has of one program, by commands on a host of the cluster."""

import re
import subprocess
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from assets.launching.backend import REQUEST_TIMEOUT, with_retries


@dataclass(frozen=True)
class Listed:
    """A job as squeue lists it."""

    number: str
    state: str
    folder: str


@dataclass(frozen=True)
class Queue:
    """The jobs of one program, by commands that are sent again while the host does not answer.

    Slurm lists jobs that have ended for a few minutes.
    """

    ssh: Sequence[str]
    """The first words of a command on the host."""
    host: str
    folder: Path
    """The folder of scripts and logs of the program's jobs."""
    unreachable_timeout: float

    def jobs(self) -> list[Listed]:
        """All that worked in this program's folder of scripts and logs, or will."""
        output = self._run("squeue --noheader --me --states=all --format='%i|%T|%Z'")
        listed = [Listed(*line.split("|", 2)) for line in output.splitlines() if line.count("|") >= 2]
        return [job for job in listed if Path(job.folder).is_relative_to(self.folder)]

    def living(self) -> list[Listed]:
        """Those that have not ended."""
        from dagster_slurm.helpers.ssh_helpers import TERMINAL_STATES

        return [job for job in self.jobs() if job.state not in TERMINAL_STATES]

    def request_stop(self, but: Set[str] = frozenset()) -> set[str]:
        """Those that wait are ended, and those that run get INT: their supervisors.  Returns their numbers."""
        numbers = {job.number for job in self.living()} - but
        for number in numbers:
            self._run(f"scancel --quiet --state=PENDING {number}; scancel --quiet --batch --signal=INT {number}; true")
        return numbers

    def status(self, number: str) -> int | None:
        """With which a job's program ended; negative if a signal ended it, None if Slurm does not say."""
        output = self._run(f"scontrol --oneliner show job {number} || true")
        code = re.search(r" ExitCode=(\d+):(\d+)", output)
        return None if code is None else int(code[1]) or -int(code[2])

    def _run(self, command: str) -> str:
        def run() -> str:
            result = subprocess.run(
                [*self.ssh, command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=REQUEST_TIMEOUT
            )
            if result.returncode != 0:
                raise ConnectionError(result.stderr.strip() or f"{command} ended with status {result.returncode}")
            return result.stdout

        errors = (ConnectionError, subprocess.TimeoutExpired)
        return with_retries(run, errors, self.unreachable_timeout, f"Slurm on {self.host}")
