"""Runs a real command, which must end within bounds of time and memory, and with a sentence, for any input."""

import resource
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from tests.processes import environment, future_l1

HANG_GUARD = 150.0
"""Seconds after which a command counts as hanging."""
MAX_RESIDENT_GIB = 3.0
"""The limit of the command and of each process that it starts; a model's libraries alone take one."""
ENDS = {0, 1, 2}


class ViolationError(AssertionError):
    """A command did not end with a result, quarantined rows, an item's problem or a sentence."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its status, its output, and the peak memory of its largest process."""

    status: int
    output: str
    gib: float

    @property
    def sentence(self) -> str:
        """The last line that begins with `Error:`, as click prints it."""
        lines = [line for line in self.output.splitlines() if line.startswith("Error:")]
        return lines[-1] if lines else ""


def run(*arguments: object) -> Ended:
    """Runs `future-l1` with these arguments.  Raises ViolationError for an end that no input may cause."""
    line = future_l1(*arguments)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            line, cwd=folder, env=environment(), stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        try:
            process.wait(HANG_GUARD)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise ViolationError(f"did not end within {HANG_GUARD:.0f} s: {_words(line)}") from None
        output.seek(0)
        text = output.read().decode(errors="replace")
    ended = Ended(process.returncode, text, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20)
    for wrong, what in (
        (ended.status not in ENDS, f"status {ended.status}"),
        ("Traceback (most recent call last)" in text, "a traceback"),
        ("\x1b" in text, "an escape sequence on the terminal"),
        (bool(ended.status) and not ended.sentence, f"status {ended.status} and no sentence"),
        (ended.gib > MAX_RESIDENT_GIB, f"{ended.gib:.1f} GiB of memory"),
    ):
        if wrong:
            raise ViolationError(f"{what}: {_words(line)}\n{text[-4_000:]}")
    return ended


def _words(line: Sequence[str]) -> str:
    return " ".join(line[3:])
