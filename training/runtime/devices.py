"""Locks of this machine's GPUs: a file per device in the system's temporary folder.

A pool slot in Dagster is a count, and a program started by hand has none: these locks keep two programs off one device.
The process that starts a program claims its devices, all or none, exclusively; they are then shared with the program's
processes, which hold them for as long as they live. A device is free when the last of them has ended, however it ended:
the kernel releases a lock with the last process that has it open.
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
"""The variable with the names of the devices claimed for a program, by its processes' LOCAL_RANK, comma-separated."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL_SECONDS = 1.0
NVIDIA_SMI_TIMEOUT = 120.0
"""Seconds; nvidia-smi is slow where the driver is not kept loaded."""


class TooFewDevicesError(PermanentError):
    """A program needs more devices than there are."""


class DeviceBusyError(RuntimeError):
    """A device that a program needs is locked by another program."""


@dataclass(frozen=True)
class Claim:
    """Devices that are locked as long as one of `descriptors` is open, here or in a process that inherited it."""

    names: tuple[str, ...]
    descriptors: tuple[int, ...]

    def __enter__(self) -> None:
        """Closes them here when the context ends; a program that inherited them goes on holding them."""

    def __exit__(self, *_: object) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a program with these devices and no others."""
        return {CLAIMED: ",".join(self.names), VISIBLE: ",".join(self.names)} if self.names else {}


NO_DEVICES = Claim((), ())


def visible() -> tuple[str, ...]:
    """The UUIDs of this machine's GPUs, as CUDA takes them; empty without nvidia-smi.

    Those that CUDA_VISIBLE_DEVICES names, in its order, if it is set; a number in it counts as nvidia-smi does (in PCI
    order), and what follows an unknown entry is not visible, as with CUDA. Raises subprocess.TimeoutExpired if the
    driver hangs.
    """
    present = _nvidia_smi("uuid")
    if VISIBLE not in os.environ:
        return tuple(present)
    named: list[str] = []
    for entry in os.environ[VISIBLE].split(","):
        device = _device_of(entry.strip(), present)
        if device is None:
            break
        named.append(device)
    return tuple(named)


def memory_gib() -> dict[str, float]:
    """The memory of this machine's GPUs by UUID, in GiB, as the driver reports it; {} without nvidia-smi."""
    rows = [line.split(", ") for line in _nvidia_smi("uuid,memory.total")]
    return {uuid: int(mib) / 1024 for uuid, mib in rows if mib.isdecimal()}


def _nvidia_smi(fields: str) -> list[str]:
    """A line for each of this machine's GPUs, of these fields without units; [] without nvidia-smi."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=NVIDIA_SMI_TIMEOUT)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return []
    return answer.stdout.splitlines()


def _device_of(entry: str, present: Sequence[str]) -> str | None:
    """The device that an entry of CUDA_VISIBLE_DEVICES names: a number, a UUID's beginning, or a GPU's part (MIG)."""
    if entry.isdecimal():
        return present[int(entry)] if int(entry) < len(present) else None
    if entry.startswith("MIG-"):
        return entry
    matches = [name for name in present if name.startswith(entry)] if entry.startswith("GPU-") else []
    return matches[0] if len(matches) == 1 else None


def check_enough(names: Sequence[str], count: int) -> None:
    """Raises TooFewDevicesError if there are not `count` devices, free or not."""
    if count > len(names):
        raise TooFewDevicesError(
            f"{count} processes need a device each, and there {'is' if len(names) == 1 else 'are'} {len(names)} "
            f"({', '.join(names) or 'no GPU is visible'}): start fewer (launch.num_processes), or give them more"
        )


def try_claim(names: Sequence[str], count: int) -> Claim | None:
    """Claims `count` of the devices, the first that are free; None if fewer are free now.

    Raises TooFewDevicesError if there are not so many.
    """
    check_enough(names, count)
    claimed: dict[str, int] = {}
    with _claim_mutex(), ExitStack() as undo:
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
        for descriptor in claimed.values():  # not atomic, but any other claimer waits for the mutex
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        undo.pop_all()
    return Claim(tuple(claimed), tuple(claimed.values()))


def waiting_message(names: Sequence[str], count: int) -> str:
    """The log line of a program that cannot have its devices yet."""
    return f"waiting until {count} of {', '.join(names)} {'is' if count == 1 else 'are'} free"


@contextmanager
def process_device(log: Callable[[str], None]) -> Iterator[str | None]:
    """This process's device, held until the context ends or the process does; None on a machine without any.

    It is one of those that were claimed for the program. A program that is started by hand claims for itself: a single
    process waits for any device (and logs that), and one of several takes that of its LOCAL_RANK, which must be free,
    because processes that wait for each other's could wait for ever.
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
        with (claim := _claim_any(devices, log)):
            os.environ[VISIBLE] = claim.names[0]
            yield claim.names[0]


def _claim_any(names: Sequence[str], log: Callable[[str], None]) -> Claim:
    claim = try_claim(names, 1)
    if claim is None:
        log(waiting_message(names, 1))
    while claim is None:
        time.sleep(POLL_SECONDS)
        claim = try_claim(names, 1)
    return claim


def _claim_now(name: str) -> Claim:
    claim = try_claim([name], 1)
    if claim is None:
        raise DeviceBusyError(f"another program works on {name}: start this one again when it has ended")
    return claim


@contextmanager
def _held(name: str) -> Iterator[None]:
    """Holds a device that was claimed for this process's program, together with its other processes."""
    descriptor = _open(name)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _claim_mutex() -> Iterator[None]:
    descriptor = _open("devices")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open(name: str) -> int:
    """Opens the lock file, which any user of this machine may open; makes it if missing.

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
