"""Ends processes reliably: the list of those that are left is read again and again, and each signal has a deadline."""

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

SignalStep = tuple[signal.Signals, float]
"""A signal, and the seconds until the next one."""


def end_all(processes: Callable[[], Iterable[psutil.Process]], steps: Sequence[SignalStep]) -> None:
    """Sends each signal to all `processes` that are left, until none is or the signal's seconds are over.

    A supervisor gets no KILL, and is waited for: it ends its own processes.
    """
    for number, seconds in steps:
        deadline = time.monotonic() + seconds
        kill = number == signal.SIGKILL
        signalled: set[psutil.Process] = set()
        while left := {process for process in processes() if _is_alive(process)}:
            supervisors = {process for process in left if _is_supervisor(process)}
            if time.monotonic() > deadline and not (kill and supervisors):
                break
            if kill or not signalled:  # KILL also goes to those that were started meanwhile
                signalled = left - supervisors if kill else left
                _send(signalled, number)
            time.sleep(POLL_INTERVAL)


def descendants(pid: int) -> list[psutil.Process]:
    """The processes below one, zombies too; below a supervisor among them none."""
    children = defaultdict(list)
    for process in psutil.process_iter(["ppid"]):
        children[process.info["ppid"]].append(process)
    result, parents = [], [pid]
    while parents:
        below = children[parents.pop()]
        result += below
        parents += [process.pid for process in below if not _is_supervisor(process)]
    return result


def of_session(leader: int) -> list[psutil.Process]:
    """The processes of the session of this leader, which may have ended."""
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


def _is_alive(process: psutil.Process) -> bool:
    """Whether it is no zombie: a zombie holds nothing."""
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
