"""A process whose parent was killed ends, even with more to tell than anybody will hear."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
FAMILY = """
import multiprocessing, os, signal, sys

from pipelines.orphans import leave_once_orphaned


def child(queue, fifo):
    leave_once_orphaned()
    parent = multiprocessing.parent_process()
    with open(fifo, "w") as told:
        told.write(str(os.getpid()))
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    queue.put(b"a figure" * 100_000)


if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    spawn.Process(target=child, args=(queue, sys.argv[1])).start()
    signal.pause()
"""


def test_an_orphan_with_a_figure_to_tell_ends(tmp_path: Path) -> None:
    script, fifo = tmp_path / "family.py", tmp_path / "fifo"
    script.write_text(FAMILY)
    os.mkfifo(fifo)
    parent = subprocess.Popen([sys.executable, str(script), str(fifo)], env={**os.environ, "PYTHONPATH": str(ROOT)})
    child = psutil.Process(int(fifo.read_text()))
    try:
        parent.wait(timeout=60)
        _, alive = psutil.wait_procs([child], timeout=30)
        assert alive == []
    finally:
        for process in (parent, child):
            if process.is_running() if isinstance(process, psutil.Process) else process.poll() is None:
                process.kill()
