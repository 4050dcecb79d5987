"""Runs a real command and holds it to what is owed to any input: an end in time and memory, and a sentence."""

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
HANG_GUARD = 150.0
"""Seconds; a command that takes longer does not end."""
MAX_RESIDENT_GIB = 3.0
"""Of the command or of any process that it starts: a model's libraries alone are one."""
ENDS = {0, 1, 2}


class ViolationError(AssertionError):
    """A command met an input with something else than a result, quarantine, an item's problem or a sentence."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its status, all that it printed, and the most memory that one of its processes had."""

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
    line = [sys.executable, "-P", "-m", "pipelines", *map(str, arguments)]
    environment = {n: v for n, v in os.environ.items() if not n.startswith("FUTURE_L1_")} | {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(ROOT)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            line, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
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
