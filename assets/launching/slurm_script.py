"""The script of a program's Slurm job, and what its log says of a failure.

On several nodes the script is one `srun`, which starts a supervisor a node and passes INT on to all of them. When one
node's part fails, Slurm ends the others.
"""

import re
import shlex
from collections.abc import Mapping, Sequence

from assets.launching.backend import ClusterSettings, Deadlines, Program
from training.runtime.launch import NodeWord
from training.runtime.project import PROJECT

NODE_VARIABLES: Mapping[str, str] = {
    NodeWord.RANK: "SLURM_NODEID", NodeWord.MAIN_ADDRESS: "MAIN_ADDRESS", NodeWord.MAIN_PORT: "MAIN_PORT",
}  # fmt: skip
"""Variables of Slurm, and of a job's script, that each node has in place of a NodeWord."""
FIRST_PORT, PORTS = 20_000, 10_000
"""A job's processes meet at a port that follows from its number: two jobs on one node do not take the same."""


def script_of(settings: ClusterSettings, deadlines: Deadlines, program: Program, pipes: Mapping[str, str]) -> list[str]:
    """The lines of the job's script.  pipes: the variables of the program's Pipes session."""
    variables = {**settings.environment_for(program, deadlines), **pipes}
    command = settings.command_for(program, deadlines)
    return [
        "#!/bin/bash",
        *(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
        f"cd {shlex.quote(str(PROJECT))} || exit",
        *([f"exec {shlex.join(command)}"] if program.nodes == 1 else _on_each_node(settings, program, command)),
    ]


def _on_each_node(settings: ClusterSettings, program: Program, command: Sequence[str]) -> list[str]:
    """The lines of a script that run a command on every node of the job, with that node's values of NodeWords.

    The step may last longer on one node than on another (`--wait=0`), unless it fails there; INT goes to all at once
    (`--disable-status`; otherwise srun would want a second one); each line of output begins with its node's number.
    srun gives each a pipe that is at its end, which a supervisor would obey: so it reads /dev/null.
    """
    words = (f'"${NODE_VARIABLES[word]}"' if word in NODE_VARIABLES else shlex.quote(word) for word in command)
    srun = [
        *("srun", f"--nodes={program.nodes}", f"--ntasks={program.nodes}", "--ntasks-per-node=1"),
        *(f"--cpus-per-task={settings.cpus_for(program)}", "--wait=0", "--kill-on-bad-exit=1"),
        *("--disable-status", "--label", "bash", "-c", f"exec {' '.join(words)} < /dev/null"),
    ]
    return [
        'MAIN_ADDRESS=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        f"export MAIN_ADDRESS MAIN_PORT=$(({FIRST_PORT} + SLURM_JOB_ID % {PORTS}))",
        f"exec {shlex.join(srun)}",
    ]


def lines_of_failed_node(output: str) -> str:
    """The lines of the node whose part failed first, and what srun says of it; all lines if it says nothing."""
    first = re.search(r"^srun: error: .*: tasks? (\d+).*$", output, re.MULTILINE)
    if first is None:
        return output
    lines = re.findall(rf"^ *{first[1]}: .*$", output, re.MULTILINE)
    return "\n".join([*lines, first[0]])
