"""A process whose parent was killed ends, and a child imports nothing from the folder where it is started."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from training.runtime.project import python_variables

FAMILY = """
import multiprocessing, os, signal, sys

from training.runtime.processes import exit_if_parent_died


def child(queue, fifo):
    exit_if_parent_died()
    parent = multiprocessing.parent_process()
    with open(fifo, "w") as ready:
        ready.write(str(os.getpid()))
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    queue.put(b"a figure" * 100_000)


if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    spawn.Process(target=child, args=(queue, sys.argv[1])).start()
    signal.pause()
"""


def test_an_orphan_with_unsent_events_ends(tmp_path: Path) -> None:
    script, fifo = tmp_path / "family.py", tmp_path / "fifo"
    script.write_text(FAMILY)
    os.mkfifo(fifo)
    environment = {**os.environ, **python_variables()}
    parent = subprocess.Popen([sys.executable, str(script), str(fifo)], env=environment)
    child = psutil.Process(int(fifo.read_text()))
    try:
        parent.wait(timeout=60)
        _, alive = psutil.wait_procs([child], timeout=30)
        assert alive == []
    finally:
        for process in (parent, child):
            if process.is_running() if isinstance(process, psutil.Process) else process.poll() is None:
                process.kill()


@pytest.mark.parametrize("before", ["", ":", "/nowhere:"])
def test_a_child_does_not_import_what_lies_where_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", before)
    (tmp_path / "training" / "runtime").mkdir(parents=True)
    for name in ("queue.py", "training/__init__.py", "training/runtime/project.py"):
        (tmp_path / name).write_text("raise SystemExit(7)")
    code = "import queue, training.runtime.project, subprocess, sys; print(training.runtime.project.PROJECT)"
    grandchild = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True)"
    environment = {**os.environ, **python_variables()}
    for source in (code, grandchild):
        subprocess.run([sys.executable, "-c", source], cwd=tmp_path, env=environment, check=True)
    supervisor = [sys.executable, "-m", "training.runtime.supervisor", "1", "1"]
    subprocess.run([*supervisor, sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True,
                   stdin=subprocess.DEVNULL)  # fmt: skip
