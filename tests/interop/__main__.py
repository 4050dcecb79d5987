"""`make interop`: what the demo made, in the programs of its users, and one table of what came out.

    python -m tests.interop PYTHON VLLM_PYTHON [STAGE ...]

They are the interpreters of environments with tests/interop/requirements.txt and requirements-vllm.txt, into which our
wheel is installed without its dependencies.  The demo is the one of FUTURE_L1_HOME and FUTURE_L1_PROFILE.  Each stage
is a module with a function `checks` that takes the demo and a folder to work in, and yields the rows of the table.
Exits with 1 where a row is not what it must be.

It takes minutes and gigabytes, and the installed packages are those of others: CI does not run it.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from pipelines.profile import PROFILE_VARIABLE, profile_from_environment
from tests.interop import (
    dataset,
    harness,
    plain_transformers,
    pushed,
    served_assets,
    served_evaluation,
    vllm_curation,
    vllm_engine,
    vllm_speed,
)
from tests.interop.demo import Demo
from tests.interop.table import Timed, show, timed
from tests.wheel import build_wheel, install_wheel

STAGES = {"transformers": plain_transformers, "dataset": dataset, "lmms_eval": harness, "pushed": pushed,
          "vllm": vllm_engine, "vllm_curation": vllm_curation, "vllm_speed": vllm_speed,
          "served_evaluation": served_evaluation, "served_assets": served_assets}  # fmt: skip


def main(python: Path, vllm: Path, stages: Sequence[str]) -> bool:
    """Whether every row is what it must be."""
    os.environ.setdefault(PROFILE_VARIABLE, "demo")  # also for `curate`, whose own default is "paper"
    demo = Demo(profile_from_environment("demo"), python.absolute(), vllm.absolute())
    rows: list[Timed] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as last:
        last.callback(show, rows)  # also where a stage fails
        wheels = Path(folder) / "wheel"
        wheels.mkdir()
        wheel = build_wheel(wheels)
        for interpreter in (demo.python, demo.vllm):
            install_wheel(wheel, interpreter)
        for name in stages or STAGES:
            work = Path(folder) / name
            work.mkdir()
            rows += timed(STAGES[name].checks(demo, work))
    return all(check.passed for check, _ in rows)


if __name__ == "__main__":
    sys.exit(0 if main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]) else 1)
