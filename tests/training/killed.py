"""A training program that is killed with its whole group."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from training.runtime.programs import ProgramConfig, Reporter, read_progress

ROOT = Path(__file__).parents[2]


def kill_at(module: str, config: ProgramConfig, step: int) -> None:
    """Starts `python -m MODULE` and sends SIGKILL when it tells that it is past the step; no checkpoint is left."""
    path = config.out.with_suffix(".json")
    path.write_text(config.model_dump_json())
    program = subprocess.Popen(
        [sys.executable, "-m", module, "--config", str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    while (read_progress(config.out) or (0,))[0] < step:
        with suppress(subprocess.TimeoutExpired):
            assert program.wait(0.05) is None, "it ended before it could be killed"
    os.killpg(program.pid, signal.SIGKILL)
    assert program.wait() == -signal.SIGKILL
    assert not (config.out / "checkpoint").exists()


class Interrupting(Reporter):
    """Sends INT to this process after a step, once."""

    def __init__(self, out: Path, step: int, quiet: bool = False) -> None:
        super().__init__(out, quiet=quiet)
        self.step = step

    def progress(self, done: int, total: int, what: str) -> None:
        if done == self.step:
            os.kill(os.getpid(), signal.SIGINT)
        super().progress(done, total, what)
