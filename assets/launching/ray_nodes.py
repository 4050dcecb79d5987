"""A program on several nodes of a Ray cluster: `python -m assets.launching.ray_nodes JSON`, the entrypoint of its job.

It takes all nodes or none (a placement group, one bundle a node) and starts an actor on each, which runs its part of
the program under a supervisor. It prints what they print: the first node's lines as they are, since they carry
Dagster's messages, the others' behind their number. When a part fails, or INT or TERM arrives here, all parts are
ended; it ends when none is left, with the last lines of the part that failed first. If this process is killed, or a
node dies, the other nodes' supervisors end their parts.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from training.runtime.launch import describe_status, on_node
from training.storage.files import write_json

NODES = "nodes.json"
"""The file in a working folder with the addresses of its nodes, written when all are there."""
POLL_INTERVAL = 0.5
LINES_KEPT = 40
"""Of each node."""


@dataclass(frozen=True)
class Parts:
    """The parts of a program, one a node.

    bundle: Ray's resources of each.  command: as for `on_node`.  folder: where each starts.  out: the working folder.
    """

    nodes: int
    bundle: Mapping[str, float]
    command: Sequence[str]
    folder: str
    out: str

    def arguments(self) -> list[str]:
        """The arguments of the Python interpreter that run them."""
        return ["-m", "assets.launching.ray_nodes", json.dumps(asdict(self))]


class _Node:
    """The actor on a node.  `stop` may be called at any time, also before `run`."""

    def __init__(self) -> None:
        self._reader, self._leash = os.pipe()

    def place(self) -> tuple[str, int]:
        """The node's address, and a port on which nobody listens."""
        import ray.util

        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def run(self, command: Sequence[str], folder: str) -> Iterator[str | int]:
        """The lines of the output of a supervisor and its command, then the status."""
        process = subprocess.Popen(
            command, cwd=folder, stdin=self._reader, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        os.close(self._reader)
        assert process.stdout is not None
        for line in process.stdout:
            yield line.rstrip("\n")
        yield process.wait()

    def stop(self) -> None:
        """Lets go of the supervisor's leash."""
        os.close(self._leash)


@dataclass
class _Part:
    """A part that runs: the stream of its lines, and the last of them."""

    rank: int
    address: str
    stream: Any
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=LINES_KEPT))
    status: int | None = None

    def read(self) -> bool:
        """Prints the next line, where there is one; whether it runs on.  The status is None if its node is lost."""
        import ray
        from ray.exceptions import RayError

        try:
            item = ray.get(next(self.stream))
        except RayError as error:
            item = f"the node is lost: {error}"
            self.stream = None
        if isinstance(item, int):
            self.status, self.stream = item, None
        else:
            self.last_lines.append(item)
            print(item if self.rank == 0 else f"node {self.rank}: {item}", flush=True)
        return self.stream is not None


def main(argument: str) -> int:
    """Runs the parts to the end of the last; the status is that of the first that failed."""
    import ray

    parts = Parts(**json.loads(argument))
    ray.init(log_to_driver=False)
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: signals.append(number))
    if (actors := _actors(parts, signals)) is None:
        return 128 + signals[0]
    failed = _run(parts, actors, signals)
    if signals:
        return 128 + signals[0]
    if failed is None:
        return 0
    last = f"node {failed.rank} ({failed.address}) {describe_status(failed.status)}, the first of {parts.nodes}"
    print(*failed.last_lines, last, sep="\n", flush=True)
    return failed.status if failed.status and failed.status > 0 else 1


def _actors(parts: Parts, signals: Sequence[int]) -> "Sequence[Any] | None":
    """An actor on each node; None if a signal arrived before there were enough nodes."""
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    print(f"waiting for {parts.nodes} nodes, each with {dict(parts.bundle)}", flush=True)
    group = placement_group([dict(parts.bundle)] * parts.nodes, strategy="STRICT_SPREAD")
    while not group.wait(1):
        if signals:
            return None
    resources = dict(parts.bundle)
    options = {
        "num_cpus": resources.pop("CPU"),
        "num_gpus": resources.pop("GPU", 0),
        "memory": resources.pop("memory", None),
        "resources": resources,
        "max_concurrency": 2,  # `stop` while `run` runs
        # Ray's way would KILL the supervisor, in place of letting go of its leash.
        "runtime_env": {"env_vars": {"RAY_kill_child_processes_on_worker_exit": "false"}},
    }
    node = ray.remote(_Node)
    return [
        node.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group, rank), **options).remote()
        for rank in range(parts.nodes)
    ]


def _run(parts: Parts, actors: Sequence[Any], signals: Sequence[int]) -> _Part | None:
    """Runs the parts to the end of the last; all are ended by a signal, or when one fails: returns the first."""
    import ray

    places = ray.get([actor.place.remote() for actor in actors])
    running = []
    for rank, (actor, (address, _)) in enumerate(zip(actors, places, strict=True)):
        command = on_node(parts.command, rank, *places[0])
        stream = actor.run.options(num_returns="streaming").remote(command, parts.folder)
        running.append(_Part(rank, address, stream))
    write_json(Path(parts.out) / NODES, [part.address for part in running])
    failed, stopped = None, False
    while running:
        ready, _ = ray.wait([part.stream for part in running], timeout=POLL_INTERVAL)
        for part in [part for part in running if part.stream in ready]:
            if not part.read():
                running.remove(part)
                failed = failed or (part if part.status != 0 else None)
        if (failed or signals) and not stopped:
            stopped = True
            for actor in actors:
                actor.stop.remote()
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
