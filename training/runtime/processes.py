"""Ending processes for certain: who is still there is looked up again and again, and each signal has a deadline."""

import multiprocessing
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from multiprocessing.util import Finalize

import psutil

POLL_INTERVAL = 0.05
FLUSH_PRIORITY = 100
"""Above that of multiprocessing's queues, which wait for their readers: Python runs the highest priority first."""

Step = tuple[signal.Signals, float]
"""A signal, and the seconds until the next."""


def end_all(everybody: Callable[[], Iterable[psutil.Process]], steps: Sequence[Step]) -> None:
    """Send each signal to all that are left, until nobody is or its seconds are over.

    A supervisor gets no KILL, and is waited for: it ends what is its own.
    """
    for number, seconds in steps:
        deadline = time.monotonic() + seconds
        kill = number == signal.SIGKILL
        told: set[psutil.Process] = set()
        while left := {process for process in everybody() if _lives(process)}:
            supervisors = {process for process in left if _is_supervisor(process)}
            if time.monotonic() > deadline and not (kill and supervisors):
                break
            if kill or not told:  # at the end also those that were born meanwhile
                told = left - supervisors if kill else left
                _send(told, number)
            time.sleep(POLL_INTERVAL)


def descendants(pid: int) -> list[psutil.Process]:
    """The processes below one, zombies too; of a supervisor among them itself, and not what it answers for."""
    children = defaultdict(list)
    for process in psutil.process_iter(["ppid"]):
        children[process.info["ppid"]].append(process)
    found, parents = [], [pid]
    while parents:
        below = children[parents.pop()]
        found += below
        parents += [process.pid for process in below if not _is_supervisor(process)]
    return found


def of_session(leader: int) -> list[psutil.Process]:
    """The processes of the session that one leads or led."""
    return [process for process in psutil.process_iter() if _session(process) == leader]


def exit_if_parent_died() -> None:
    """In a process of `multiprocessing`: at its end, exit at once if its parent has died by then.

    A Dagster step sends its events through a pipe of which it holds both ends.  Its buffer is 64 KiB, less than a
    figure: a step whose run was killed would wait for ever for a reader, and keep its memory.
    """
    if multiprocessing.parent_process() is not None:
        Finalize(None, _exit_if_orphaned, exitpriority=FLUSH_PRIORITY)


def _exit_if_orphaned() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def _send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(number)


def _lives(process: psutil.Process) -> bool:
    """Not a zombie, which holds nothing."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _is_supervisor(process: psutil.Process) -> bool:
    try:
        return bool(process.cmdline()[1:3] == ["-m", "training.runtime.supervisor"])
    except psutil.Error:
        return False


def _session(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return None
