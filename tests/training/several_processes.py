"""A training program in several gloo processes, on one machine or on two, by the lines with which backends start it."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from assets.launching.launcher import LaunchSettings, program_of
from assets.launching.ray import RaySettings
from tests import forks
from tests.loopback import free_port
from tests.processes import until
from tests.training import fsdp_on_cpu
from training.runtime.launch import Start, on_node
from training.runtime.programs import ProgramConfig
from training.runtime.project import PROJECT, python_variables

FSDP = PROJECT / "profiles" / "accelerate" / "fsdp2.yaml"
TIMEOUT = 300.0
HOST = "127.0.0.1"


def launched(
    module: str, config: ProgramConfig, nodes: int = 1, sharded: bool = False, interrupt: bool = False
) -> Path:
    """The working folder of a program when both its processes have ended, with a whole model each or a sharded one.

    nodes: each is a launcher of its own, on loopback.  sharded: under the project's own FSDP file, in fp32; then
    `interrupt` sends INT to the last process, alone, after its first step.
    """
    arguments, port = _arguments(module, config, 2, nodes, sharded), free_port()
    variables = {fsdp_on_cpu.INTERRUPTED: "1"} if interrupt else {}
    launchers = [
        subprocess.Popen(
            [sys.executable, *on_node(arguments, rank, HOST, port)],
            env={**os.environ, **forks.forked(), **python_variables(), "OMP_NUM_THREADS": "1", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(nodes)
    ]
    output = [launcher.communicate(timeout=TIMEOUT)[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [int(interrupt)] * nodes, "\n".join(output)
    return config.out


def in_processes(module: str, config: ProgramConfig, processes: int = 2, nodes: int = 1, sharded: bool = False) -> Path:
    """As `launched`, without the launchers, in the environment that those would give; forks where programs are."""
    arguments, port = _arguments(module, config, processes, nodes, sharded), free_port()
    launcher, *_ = _validate_launch_command(launch_command_parser().parse_args(on_node(arguments, 0, HOST, port)[2:]))
    environment = {**os.environ, **prepare_multi_gpu_env(launcher), **python_variables(), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", launcher.training_script, *launcher.training_script_args]
    output = config.out / "output.txt"
    with output.open("a") as log, ExitStack() as stack:
        started = []
        for rank in range(processes):
            variables = environment | _place(rank, processes, nodes, port)
            started.append(stack.enter_context(subprocess.Popen(command, env=variables, stdout=log, stderr=log)))
            stack.callback(started[-1].kill)
        until(lambda: any(one.poll() for one in started) or all(one.poll() == 0 for one in started), "it ends", TIMEOUT)
        assert [one.wait(TIMEOUT) for one in started] == [0] * processes, output.read_text()
    return config.out


def _arguments(module: str, config: ProgramConfig, processes: int, nodes: int, sharded: bool) -> list[str]:
    """Those of Python on a node: `accelerate launch` and its options, the module and its config."""
    launch: dict[str, Any] = {"num_processes": {module: processes}, "nodes": {module: nodes}}
    if sharded:
        file = config.out.with_suffix(".yaml")
        file.write_text(FSDP.read_text().replace("mixed_precision: bf16", "mixed_precision: 'no'"))
        launch["accelerate_config"] = {module: file}
    start = Start(module, config.out, config.model_dump(mode="json", exclude={"out"}))
    arguments = [*program_of(LaunchSettings(backend=RaySettings(), **launch), start).arguments]
    if sharded:
        arguments.insert(arguments.index(module), fsdp_on_cpu.__name__)
    return arguments


def _place(rank: int, processes: int, nodes: int, port: int) -> dict[str, str]:
    """The variables by which torchrun gives a process its place among the others."""
    node, local = divmod(rank, processes // nodes)
    return {
        "RANK": str(rank), "LOCAL_RANK": str(local), "GROUP_RANK": str(node), "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes // nodes), "MASTER_ADDR": HOST, "MASTER_PORT": str(port),
    }  # fmt: skip
