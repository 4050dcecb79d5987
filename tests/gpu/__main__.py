"""`make gpu`: what a CUDA card gives, in at most eight minutes on one of 80 GB, as one table and one JSON file.

The tiny checkpoint against the CPU and against its own replay; decoding at 2B and 8B against plain transformers; a step
of SFT and of RL at 2B, its memory beside the estimate's.  Models of 2B and 8B have random weights: nothing is
downloaded.  `--device cpu --shapes tiny` runs all of it on a CPU.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.gpu.packages import missing_packages
from tests.gpu.results import Part, Result, run_part, table, write

if TYPE_CHECKING:  # what is missing is named before anything imports it
    import torch

    from tests.gpu.machine import Machine
    from tests.gpu.shapes import Shapes

CPU_PATIENCE = 20
"""How many times longer than on a card a part may take on a CPU, which may be busy."""


def main() -> int:
    """The exit status: 1 where packages are missing, a check fails, or a part ends with another error than too little
    memory or time; 0 without CUDA."""
    parser = argparse.ArgumentParser(
        prog="make gpu", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shapes", choices=("qwen3-vl", "tiny"), default="qwen3-vl")
    home = Path(os.environ.get("FUTURE_L1_HOME", ".future-l1"))
    parser.add_argument("--out", type=Path, default=home / "gpu.json", help="the JSON file")
    options = parser.parse_args()
    if missing := missing_packages():
        print(f"make gpu installs nothing, and {sys.executable} lacks {', '.join(missing)}: install these into it, or "
              "name another interpreter, as in `make gpu PYTHON=.venv/bin/python`", file=sys.stderr)  # fmt: skip
        return 1
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        print(f"make gpu: torch {torch.__version__} sees no CUDA device here, so nothing was measured")
        return 0
    device = torch.device("cuda", 0) if options.device == "cuda" else torch.device("cpu")
    return run(device, options.shapes, options.out)


def run(device: "torch.device", shapes_name: str, out: Path) -> int:
    """Measures part by part; the file holds what there is after each."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    from tests.gpu.machine import Machine
    from tests.gpu.shapes import SHAPES

    disable_progress_bar()
    machine, shapes, results = Machine(device), SHAPES[shapes_name], list[Result]()
    patience = 1 if machine.is_cuda else CPU_PATIENCE
    facts = {"shapes": shapes_name, **machine.facts()}
    for part in parts(machine, shapes):
        print(f"{part.name} ...", file=sys.stderr, flush=True)
        machine.free()
        results.append(run_part(part, patience, torch.OutOfMemoryError, machine.free))
        write(out, facts, results)
    print(f"{facts['device']}, commit {facts['commit']}, written to {out}\n{table(results)}")
    return 0 if all(result.ok for result in results) else 1


def parts(machine: "Machine", shapes: "Shapes") -> list[Part]:
    """All parts, in the order of what they need."""
    from tests.gpu.agreement import agreement
    from tests.gpu.decoding import decoding
    from tests.gpu.steps import rl_step, sft_step

    small, *larger = shapes.models
    return [
        Part("tiny checkpoint", 60, partial(agreement, machine)),
        Part(f"decoding, {small}", 80, partial(decoding, machine, shapes, small)),
        Part(f"SFT, {small}", 60, partial(sft_step, machine, shapes)),
        Part(f"RL, {small}", 90, partial(rl_step, machine, shapes)),
        *[Part(f"decoding, {name}", 140, partial(decoding, machine, shapes, name)) for name in larger],
    ]


if __name__ == "__main__":
    sys.exit(main())
