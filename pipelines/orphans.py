"""A step's process, or a run's, whose parent was killed: it must not wait for somebody to hear what it has to tell."""

import multiprocessing
import os
import sys
from multiprocessing.util import Finalize

FIRST = 100
"""Before a queue waits for its reader: Python runs what has the highest number first."""


def leave_once_orphaned() -> None:
    """In a process of multiprocessing, end at its end without waiting, if its parent is gone by then.

    Dagster's steps tell their events through a pipe of which they hold both ends. Its buffer is 64 KiB, less than a
    figure: a step whose run was killed would wait for ever for its events to be read, and keep its memory.
    """
    if multiprocessing.parent_process() is not None:
        Finalize(None, _leave, exitpriority=FIRST)


def _leave() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
