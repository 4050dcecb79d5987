"""A program that counts one, and checkpoints it, before it does what it is told."""

import os
import signal
from typing import Any, Literal

from training.runtime.programs import ProgramConfig, Reporter, run_program

PROGRAM = "tests.assets.launching.deeds"


class Config(ProgramConfig):
    """wait: until a signal, in the first start only."""

    deed: Literal["go on", "fail", "wait"]


def main(config: Config, reporter: Reporter) -> dict[str, Any]:
    """The number it went on from, and what its environment has."""
    checkpoint = config.out / "count"
    begun = int(checkpoint.read_text()) if checkpoint.is_file() else 0
    checkpoint.write_text("1")
    reporter.progress(1, 2, "counting")
    if config.deed == "fail":
        raise ValueError("the eighth row is broken")
    while config.deed == "wait" and not begun:
        signal.pause()
    return {"resumed_from": begun} | {name: os.environ.get(name) for name in ("FUTURE_L1_JUDGE_API_KEY", "ADDED")}


if __name__ == "__main__":
    run_program(Config, main)
