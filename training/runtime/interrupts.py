"""INT and TERM end a command or a program of ours: once, and within seconds whatever it is doing.

Python runs a signal's handler only when its main thread comes back from C, or from a wait for other threads; and
Dagster only looks at signals between two steps. So a thread receives signals, too, and ends the process
SECONDS_TO_END after the first, with all that it started, unless a block needs longer (`defer_interrupts`, `patience`).
INT is received also where a shell set it to be ignored, as it does for background jobs: Dagster would ignore TERM
alike, and nothing but KILL would end us.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

from training.runtime.streams import open_closed_streams

SECONDS_TO_END = 6.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)
LAST_STEPS = [(signal.SIGTERM, 1.0), (signal.SIGKILL, 1.0)]
"""The signals for what the process started, except below a supervisor, which has its own deadlines."""
_POLL_SECONDS = 0.1


class _State:
    """The state of this process.  stderr: its descriptor at the start, wherever stderr goes now."""

    first: int | None = None
    obeyed = False
    patient = 0
    sentence = "materialise again to go on from here"
    stderr = 2


def received() -> int | None:
    """The first INT or TERM of this process since `listen` or in `raising_once`; None before any."""
    return _State.first


@contextmanager
def exiting(sentence: str) -> Iterator[None]:
    """A block that the first INT or TERM ends: it prints `sentence`, how to go on, and exits with 130 or 143."""
    open_closed_streams()
    _State.sentence, _State.stderr = sentence, os.dup(2)
    listen()
    try:
        with raising_once():
            try:
                yield
            except KeyboardInterrupt:
                number = received() or signal.SIGINT
                _end_children()
                print(_farewell(number), file=sys.stderr, flush=True)
                sys.exit(128 + number)
    finally:
        if received() is None:  # the process has other things to do, as tests have
            signal.set_wakeup_fd(-1)
        else:  # or it ends, and who asks again changes nothing
            for number in SIGNALS:
                signal.signal(number, _raise_once)
        os.close(_State.stderr)
        _State.stderr = 2


@contextmanager
def raising_once() -> Iterator[None]:
    """The first INT or TERM raises KeyboardInterrupt in the block; later ones change nothing.

    In other threads than the main one, which signals do not reach, a plain block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _raise_once) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def defer_interrupts() -> Iterator[None]:
    """Defers INT and TERM to the end of the block: they are handled after it, not lost."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    deferred: list[int] = []
    before = {number: signal.signal(number, lambda n, _: deferred.append(n)) for number in SIGNALS}
    try:
        with patience():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if deferred:
            signal.raise_signal(deferred[0])


@contextmanager
def patience() -> Iterator[None]:
    """A block that may take longer than SECONDS_TO_END after a signal: it saves something, or ends programs."""
    _State.patient += 1
    try:
        yield
    finally:
        _State.patient -= 1


def listen() -> None:
    """From now on, the process ends SECONDS_TO_END after the first INT or TERM; called in its main thread."""
    signal.set_wakeup_fd(_listener(), warn_on_full_buffer=False)


@cache
def _listener() -> int:
    """The descriptor that a thread reads signals from."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # a fork's signals are not its parent's
    threading.Thread(target=_wait_for_end, args=(reading,), name="interrupts", daemon=True).start()
    return writing


def _raise_once(number: int, _frame: object) -> None:
    _note(number)
    if not _State.obeyed:
        _State.obeyed = True
        raise KeyboardInterrupt


def _note(number: int) -> None:
    if _State.first is None:
        _State.first = number


def _wait_for_end(signals: int) -> None:
    while not (numbers := [number for number in os.read(signals, 4096) if number in SIGNALS]):
        pass
    _note(numbers[0])
    deadline = time.monotonic() + SECONDS_TO_END
    while time.monotonic() < deadline:
        if _State.patient:
            deadline = time.monotonic() + SECONDS_TO_END
        time.sleep(_POLL_SECONDS)
    _end_children()
    cursor = "\x1b[?25h" if os.isatty(_State.stderr) else ""  # a progress bar hid it
    with suppress(OSError):  # a terminal that is gone
        os.write(_State.stderr, f"{cursor}{_farewell(numbers[0])}\n".encode())
    os._exit(128 + numbers[0])


def _end_children() -> None:
    from training.runtime.processes import descendants, end_all

    end_all(lambda: descendants(os.getpid()), LAST_STEPS)


def _farewell(number: int) -> str:
    return f"stopped by {signal.Signals(number).name}: {_State.sentence}"
