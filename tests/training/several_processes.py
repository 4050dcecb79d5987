"""A training program in several gloo processes: with a whole model each, or with a sharded one."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from training.runtime.programs import ProgramConfig

ROOT = Path(__file__).parents[2]


def with_whole_models(module: str, config: ProgramConfig, processes: int = 2) -> Path:
    """The working folder of `accelerate launch -m MODULE`, after all processes ended well."""
    options = f"--multi_gpu --num_processes {processes} --num_machines 1 --mixed_precision no --dynamo_backend no"
    command = ["accelerate.commands.launch", *options.split(), "--main_process_port", "0", "-m", module]
    return _ended(config, command, [{}])


def with_shards(module: str, config: ProgramConfig) -> Path:
    """The same in two processes under the project's own FSDP file, in fp32."""
    from tests.training.sft.test_launch_configs import launched, prepare_multi_gpu_env

    arguments = launched("fsdp2.yaml")
    arguments.mixed_precision = "no"
    fsdp = {name: value for name, value in prepare_multi_gpu_env(arguments).items() if os.environ.get(name) != value}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    ranks = [{**fsdp, **place, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    return _ended(config, ["tests.training.fsdp_on_cpu", module], ranks)


def _ended(config: ProgramConfig, command: Sequence[str], environments: Sequence[Mapping[str, str]]) -> Path:
    path = config.out.with_suffix(".json")
    path.write_text(config.model_dump_json())
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", *command, "--config", str(path)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for environment in environments
    ]
    output = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(output)
    return config.out
