"""Start a command that ends when whoever started it ends: `python -m training.tether PARENT_PID COMMAND...`.

For engines that signal and kill for themselves, once they live (`training.supervisor` does it all). The kernel sends
SIGTERM to a process whose parent died, if the process asked for it. The request survives `exec`, so this module asks
and then becomes the command. Signal dispositions are reset, because a shell's background jobs ignore SIGINT.
"""

import ctypes
import os
import signal
import sys

TETHERED = "FUTURE_L1_TETHERED"
"""Set for a program that belongs to whoever started it and ends with it, and for what it starts."""
PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when this process's parent ends (Linux); raises OSError if it refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def main(arguments: list[str]) -> None:
    parent, *command = arguments
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    die_with_parent()
    if os.getppid() != int(parent):  # it ended before we could ask
        sys.exit(f"the parent {parent} has ended")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
