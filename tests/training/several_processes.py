"""A training program in several gloo processes, on one machine or on two, started by the lines that backends start."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from assets.launching.launcher import LaunchSettings, program_of
from assets.launching.ray import RaySettings
from tests.loopback import free_port
from tests.training import fsdp_on_cpu
from training.runtime.launch import Start, on_node
from training.runtime.programs import ProgramConfig
from training.runtime.project import PROJECT, python_variables

FSDP = PROJECT / "profiles" / "accelerate" / "fsdp2.yaml"


def in_processes(
    module: str,
    config: ProgramConfig,
    processes: int = 2,
    nodes: int = 1,
    sharded: bool = False,
    interrupt: bool = False,
) -> Path:
    """The working folder of a program when all its processes have ended, with a whole model each or a sharded one.

    nodes: each is a launcher of its own, on loopback.  sharded: under the project's own FSDP file, in fp32; then
    `interrupt` sends INT to the last process, alone, after its first step.
    """
    launch: dict[str, Any] = {"num_processes": {module: processes}, "nodes": {module: nodes}}
    if sharded:
        file = config.out.with_suffix(".yaml")
        file.write_text(FSDP.read_text().replace("mixed_precision: bf16", "mixed_precision: 'no'"))
        launch["accelerate_config"] = {module: file}
    start = Start(module, config.out, config.model_dump(mode="json", exclude={"out"}))
    arguments = [*program_of(LaunchSettings(backend=RaySettings(), **launch), start).arguments]
    if sharded:
        arguments.insert(arguments.index(module), fsdp_on_cpu.__name__)
    port, variables = free_port(), {fsdp_on_cpu.INTERRUPTED: str(processes - 1)} if interrupt else {}
    launchers = [
        subprocess.Popen(
            [sys.executable, *on_node(arguments, rank, "127.0.0.1", port)],
            env={**os.environ, **python_variables(), "OMP_NUM_THREADS": "1", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(nodes)
    ]
    output = [launcher.communicate(timeout=300)[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [int(interrupt)] * nodes, "\n".join(output)
    return config.out
