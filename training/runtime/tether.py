"""A process that ends with its parent, however the parent ends.

The kernel sends SIGTERM to a process whose parent died, if the process asked for it. The request survives `exec`.
"""

import ctypes
import signal

TETHERED = "FUTURE_L1_TETHERED"
"""Set for a program that belongs to whoever started it and ends with it, and for what it starts."""
PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when this process's parent ends (Linux); raises OSError if it refuses."""
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process (Linux); raises OSError if the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value}) failed")
