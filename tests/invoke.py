"""Commands of the project in this process, which has imported what they need: a process of their own takes seconds."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import IO
from unittest.mock import patch

from click.testing import CliRunner, Result

from pipelines.cli.main import main
from tests.processes import environment


def invoke(*arguments: object) -> Result:
    """Runs `future-l1` to its end."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """`tests.processes.run` without a process, also for commands that run a plan, whose output has descriptors."""
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with patch.dict(os.environ, environment(**variables), clear=True), _redirected(out, err):
            try:
                main(words, prog_name="future-l1")
            except SystemExit as end:
                status = end.code
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(words, status, out.read(), err.read())


@contextmanager
def _redirected(out: IO[str], err: IO[str]) -> Iterator[None]:
    """What this process and its children write goes to files."""
    originals = [os.dup(1), os.dup(2)]
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    try:
        with (
            open(1, "w", closefd=False) as stdout,
            open(2, "w", closefd=False) as stderr,
            redirect_stdout(stdout),
            redirect_stderr(stderr),
        ):
            yield
    finally:
        for number, descriptor in enumerate(originals, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
