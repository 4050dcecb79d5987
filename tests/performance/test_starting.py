"""What a program does before its first step: it imports its libraries, and makes frames into the tower's input."""

import subprocess
import sys
from functools import partial

import numpy as np
import torch

from tests.performance.conftest import Compare
from training.model.checkpoint import load
from training.model.vision import Patcher, pixel_values
from training.runtime.project import PROJECT
from training.tiny import BASE

COLLECTOR_STAYS = "import atexit, gc; atexit.register(gc.freeze); gc.disable = gc.freeze = lambda: None; "
"""Before the imports; the end is a program's own, which looks for no garbage either."""


def test_start_and_end_of_a_program(compare: Compare) -> None:
    def start(before: str) -> str:
        command = [sys.executable, "-c", f"{before}from training.sft.__main__ import main; print(main.__name__)"]
        return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout

    name = "start and end of training.sft, the garbage collector at work against resting"
    assert compare(name, partial(start, COLLECTOR_STAYS), partial(start, ""), 1) == ("main\n", "main\n")


def test_frames_to_pixels(compare: Compare) -> None:
    generator = np.random.default_rng(0)
    patcher = Patcher(load(BASE).processor.image_processor)
    frames = [patcher(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8), 4, 16) for _ in range(64)]
    singly, together = compare(
        "pixels of 64 frames, one at a time against all",
        lambda: torch.cat([frame.pixels for frame in frames]),
        lambda: pixel_values(frames),
        len(frames),
    )
    assert torch.equal(singly, together)
