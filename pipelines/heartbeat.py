"""A line every 20 s of what a command is doing, for where no terminal shows it.

A thread writes the lines, so that they also come while the command waits for a program or a server.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count

from training.runtime.printable import printable

SECONDS = 20


class _State:
    """The state of this process."""

    activity = "working"


def set_activity(activity: str) -> None:
    """Names what this process does from now on, for the next line."""
    _State.activity = activity


@contextmanager
def heartbeat(command: str) -> Iterator[None]:
    """A block in which a line says every SECONDS, on standard error, what the command is doing and for how long."""
    set_activity("working")
    stopped = threading.Event()
    stderr = os.dup(2)  # runs send theirs to a file
    thread = threading.Thread(target=_beat, args=(command, stderr, stopped), name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        os.close(stderr)


def _beat(command: str, stderr: int, stopped: threading.Event) -> None:
    for beats in count(1):
        if stopped.wait(SECONDS):
            return
        line = printable(f"{command}, {timedelta(seconds=beats * SECONDS)}: {_State.activity}")
        try:
            os.write(stderr, f"{line}\n".encode())
        except OSError:  # nobody reads them any more
            return
