"""A process ends once and for certain after INT or TERM, whatever it is doing."""

import itertools
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.processes import environment, interrupt
from training.runtime import interrupts

PRELUDE = """
import ctypes, os, signal, subprocess, sys, threading, time
from pathlib import Path
from training.runtime import interrupts
from training.runtime.interrupts import exiting
interrupts.SECONDS_TO_END = 0.5
def begun():
    Path(sys.argv[1]).touch()
"""
STUCK = {
    "in C": """
with exiting("again"):
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    begun()
    libc.pthread_mutex_lock(mutex)
""",
    "taking no notice": """
with exiting("again"):
    begun()
    while True:
        try:
            time.sleep(100)
        except BaseException:
            pass
""",
    "with a thread that waits for a server": """
with exiting("again"):
    threading.Thread(target=threading.Event().wait).start()
    begun()
    time.sleep(100)
""",
    "with a child that ignores TERM": """
with exiting("again"):
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(100)"
    with subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        begun()
        threading.Event().wait()
""",
    "while Dagster takes a note of signals": """
from dagster._utils.interrupts import capture_interrupts
with exiting("again"), capture_interrupts():
    begun()
    time.sleep(100)
""",
}


@pytest.mark.parametrize(("stuck", "number"), [*zip(STUCK, itertools.cycle(interrupts.SIGNALS), strict=False)])
def test_it_ends_for_certain(tmp_path: Path, stuck: str, number: signal.Signals) -> None:
    message = interrupt(command(tmp_path, STUCK[stuck]), environment(), (tmp_path / "begun").exists, number)
    assert f"stopped by {number.name}: again\n" in message


def test_what_needs_longer_gets_it_and_the_signals_after_the_first_change_nothing(tmp_path: Path) -> None:
    code = """
with exiting("again"):
    try:
        begun()
        time.sleep(100)
    finally:
        with interrupts.patience():
            time.sleep(1.5)
        Path(sys.argv[1]).write_text("saved")
"""
    interrupt(command(tmp_path, code), environment(), (tmp_path / "begun").exists, *[signal.SIGTERM] * 3)
    assert (tmp_path / "begun").read_text() == "saved"


def test_a_second_signal_while_it_ends_changes_nothing(tmp_path: Path) -> None:
    code = """
import atexit
interrupts.SECONDS_TO_END = 30.0
atexit.register(signal.raise_signal, signal.SIGTERM)
with exiting("again"):
    interrupts._end_children = lambda: signal.raise_signal(signal.SIGTERM)
    begun()
    time.sleep(100)
"""
    message = interrupt(command(tmp_path, code), environment(), (tmp_path / "begun").exists, signal.SIGTERM)
    assert message == "stopped by SIGTERM: again\n"


def test_the_signals_of_a_fork_are_not_its_parents(tmp_path: Path) -> None:
    code = """
with exiting("again"):
    child = os.fork()
    if child == 0:
        begun()
        time.sleep(100)
    while not Path(sys.argv[1]).exists():
        time.sleep(0.01)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143
    time.sleep(1.5)
    assert interrupts.received() is None
"""
    ran = subprocess.run(command(tmp_path, code), env=environment(), capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr


def test_an_impatient_interrupt_waits_for_the_end_of_what_defers_it() -> None:
    gone, before = False, signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interrupts.defer_interrupts():
        psutil.Process().send_signal(signal.SIGINT)
        gone = True
    assert gone
    assert signal.getsignal(signal.SIGINT) is before


def test_a_process_that_was_started_without_standard_streams_has_them(tmp_path: Path) -> None:
    """And so has what it starts; no file has the number of one, where messages would go to."""
    code = """
with exiting("again"):
    for number in range(3):
        os.fstat(number)
    print("a message", file=sys.stderr, flush=True)
    with open(sys.argv[1], "w") as file:
        os.write(2, b"another")
        subprocess.run([sys.executable, "-c", "import os; [os.fstat(number) for number in range(3)]"], check=True)
        file.write(str(file.fileno()))
"""
    shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command(tmp_path, code)]
    assert subprocess.run(shell, env=environment(), timeout=60).returncode == 0
    assert int((tmp_path / "begun").read_text()) > 2


def command(tmp_path: Path, code: str) -> list[str]:
    """A process that touches `tmp_path`/begun when it is where it is to be interrupted."""
    return [sys.executable, "-c", PRELUDE + code, str(tmp_path / "begun")]
