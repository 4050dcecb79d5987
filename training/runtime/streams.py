"""Standard streams of a process that was started without them, as by `command 2>&-`."""

import os
import sys
from pathlib import Path

NAMES = {"stdin": "r", "stdout": "w", "stderr": "w"}


def open_closed_streams() -> None:
    """Opens /dev/null in place of closed descriptors 0 to 2, also for the processes that this one starts.

    The next file that is opened would get such a number, and be overwritten by whoever writes a message.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < len(NAMES):
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, mode in NAMES.items():
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115
