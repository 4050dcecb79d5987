"""Programs as forks of a process that has imported torch and transformers, which takes each of them seconds.

A Python that is started as `-m PROGRAM` with the variables of `forking` asks that process for a fork, as
python/sitecustomize.py says: one that has its arguments, environment, folder and standard streams.  It hands the fork
the signals that it gets, and ends as the fork ends; the fork ends at once where it is killed.  So a program is started,
supervised and ended as always, but for its being below whoever started it, and its command line.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.runtime.project import PROJECT

ADDRESS = "TESTS_FORK_SERVER"
MODULES = "TESTS_FORKED"
COMMANDS = "pipelines"
PROGRAMS = (
    "evaluation.generate", "evaluation.latent_retrieval", "tests.training.fsdp_on_cpu", "training.rl", "training.sft",
)  # fmt: skip


def forked(*modules: str) -> dict[str, str]:
    """The variable for these to be forks, and no others: some of PROGRAMS, and COMMANDS."""
    return {MODULES: " ".join(modules)}


@contextmanager
def forking() -> Iterator[dict[str, str]]:
    """The variables with which PROGRAMS are forks; an assertion fails where one of them is left at the end."""
    with tempfile.TemporaryDirectory() as folder, Path(folder, "errors").open("w") as errors:
        address, site = f"{folder}/socket", str(Path(__file__).parent / "python")
        path = (str(PROJECT), site, os.environ.get("PYTHONPATH"))
        command = [sys.executable, "-m", "tests.forks.server", address]
        server = subprocess.Popen(
            command, start_new_session=True, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip
        assert server.stdin and server.stdout
        try:
            assert server.stdout.readline(), Path(errors.name).read_text()
            yield {ADDRESS: address, "PYTHONPATH": os.pathsep.join(filter(None, path)), **forked(*PROGRAMS)}
        finally:
            server.stdin.close()
            left, status = server.stdout.read(), server.wait()
            assert status == 0, f"the fork server ended with {status}: {Path(errors.name).read_text()}"
            assert not left, f"programs are left: {left}"
