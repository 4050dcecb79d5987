"""Who works on which GPU of this machine: a lock file per device in the system's temporary folder.

A pool slot in Dagster is a count, and a program started by hand has none: these locks are what keeps two programs off
one device. Whoever starts a program claims its devices, all or none, exclusively; they are then shared with the
program's processes, which hold them for as long as they live. A device is free when the last of them has ended, however
it ended: the kernel lets go of a lock with the last process that has it open.
"""

import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from training.runtime.errors import PermanentError

CLAIMED = "FUTURE_L1_DEVICES"
"""The names of the devices that were claimed for a program, by its processes' LOCAL_RANK, with commas between."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
SECONDS_BETWEEN_TRIES = 1.0
SECONDS_TO_ANSWER = 120.0
"""For nvidia-smi, which takes seconds where the driver is not kept loaded."""


class TooFewDevicesError(PermanentError):
    """A program needs more devices than there are."""


class DeviceBusyError(RuntimeError):
    """A device that a program must have is another program's."""


@dataclass(frozen=True)
class Claim:
    """Devices that nobody else gets as long as one of `descriptors` is open, here or in a process that inherited it."""

    names: tuple[str, ...]
    descriptors: tuple[int, ...]

    def __enter__(self) -> None:
        """Let go of them here when the context ends; a program that inherited them goes on holding them."""

    def __exit__(self, *_: object) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)

    @property
    def environment(self) -> dict[str, str]:
        """What tells a program that these devices, and no others, are its own."""
        return {CLAIMED: ",".join(self.names), VISIBLE: ",".join(self.names)} if self.names else {}


NOTHING = Claim((), ())


def visible() -> tuple[str, ...]:
    """The UUIDs of this machine's GPUs, as CUDA takes them; empty without nvidia-smi.

    Those that CUDA_VISIBLE_DEVICES names, in its order, if it is set; a number in it counts as nvidia-smi does (in PCI
    order), and what follows an unknown entry is not visible, as with CUDA. Raises subprocess.TimeoutExpired if the
    driver hangs.
    """
    ask = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        here = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=SECONDS_TO_ANSWER).stdout.split()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return ()
    if VISIBLE not in os.environ:
        return tuple(here)
    named: list[str] = []
    for entry in os.environ[VISIBLE].split(","):
        found = _meant(entry.strip(), here)
        if found is None:
            break
        named.append(found)
    return tuple(named)


def _meant(entry: str, here: Sequence[str]) -> str | None:
    """The device that an entry of CUDA_VISIBLE_DEVICES names: a number, a UUID's beginning, or a GPU's part (MIG)."""
    if entry.isdecimal():
        return here[int(entry)] if int(entry) < len(here) else None
    if entry.startswith("MIG-"):
        return entry
    alike = [name for name in here if name.startswith(entry)] if entry.startswith("GPU-") else []
    return alike[0] if len(alike) == 1 else None


def check_enough(names: Sequence[str], count: int) -> None:
    """Raises TooFewDevicesError if there are not `count` devices, free or not."""
    if count > len(names):
        raise TooFewDevicesError(
            f"{count} processes need a device each, and there {'is' if len(names) == 1 else 'are'} {len(names)} "
            f"({', '.join(names) or 'no GPU is visible'}): start fewer (launch.num_processes), or give them more"
        )


def try_claim(names: Sequence[str], count: int) -> Claim | None:
    """Claim `count` of the devices, the first that are free; None if fewer are free now.

    Raises TooFewDevicesError if there are not so many.
    """
    check_enough(names, count)
    claimed: dict[str, int] = {}
    with _only_one_tries(), ExitStack() as undo:
        for name in names:
            descriptor = _open(name)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            undo.callback(os.close, descriptor)
            claimed[name] = descriptor
            if len(claimed) == count:
                break
        else:
            return None
        for descriptor in claimed.values():  # not atomic, but whoever could come between waits for the mutex
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        undo.pop_all()
    return Claim(tuple(claimed), tuple(claimed.values()))


def waiting_message(names: Sequence[str], count: int) -> str:
    """What to say of a program that cannot have its devices yet."""
    return f"waiting until {count} of {', '.join(names)} {'is' if count == 1 else 'are'} free"


@contextmanager
def own_device(say: Callable[[str], None]) -> Iterator[str | None]:
    """This process's device, held until the context ends or the process does; None on a machine without any.

    It is one of those that were claimed for the program. A program that somebody starts by hand claims for itself: one
    process waits for any device (`say` hears of it), and one of several takes that of its LOCAL_RANK, which must be
    free, because processes that wait for each other's could wait for ever.
    Raises TooFewDevicesError, or DeviceBusyError.
    """
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    claimed = [name for name in os.environ.get(CLAIMED, "").split(",") if name]
    devices = claimed or visible()
    if not devices:
        yield None
        return
    check_enough(devices, rank + 1)
    if claimed:
        with _held(devices[rank]):
            yield devices[rank]
    elif "LOCAL_RANK" in os.environ:
        with _claim_now(devices[rank]):
            os.environ[VISIBLE] = ",".join(devices)  # counted as they are here
            yield devices[rank]
    else:
        with (claim := _claim_any(devices, say)):
            os.environ[VISIBLE] = claim.names[0]
            yield claim.names[0]


def _claim_any(names: Sequence[str], say: Callable[[str], None]) -> Claim:
    claim = try_claim(names, 1)
    if claim is None:
        say(waiting_message(names, 1))
    while claim is None:
        time.sleep(SECONDS_BETWEEN_TRIES)
        claim = try_claim(names, 1)
    return claim


def _claim_now(name: str) -> Claim:
    claim = try_claim([name], 1)
    if claim is None:
        raise DeviceBusyError(f"another program works on {name}: start this one again when it has ended")
    return claim


@contextmanager
def _held(name: str) -> Iterator[None]:
    """Hold a device that was claimed for this process's program, beside its other processes."""
    descriptor = _open(name)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _only_one_tries() -> Iterator[None]:
    descriptor = _open("devices")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open(name: str) -> int:
    """The lock file, which any user of this machine may open; made if missing.

    Never O_CREAT on one that is there: Linux forbids that for another user's file in /tmp (fs.protected_regular).
    """
    path = Path(tempfile.gettempdir()) / f"future-l1-{name}.lock"
    while True:
        with suppress(FileNotFoundError):
            return os.open(path, os.O_RDONLY)
        with suppress(FileExistsError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL)
            os.fchmod(descriptor, 0o644)
            return descriptor
