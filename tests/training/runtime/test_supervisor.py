"""Whatever a command starts ends with it, and it ends with whoever started it. All processes here are real."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from training.runtime import supervisor
from training.runtime.supervisor import Deadlines

ROOT = Path(__file__).parents[3]
SOON = Deadlines(0.3, 0.3)


def ignoring(*numbers: signal.Signals) -> str:
    """A program that ignores these signals, and says its id when it does."""
    ignored = "".join(f"signal.signal({int(number)}, signal.SIG_IGN); " for number in numbers)
    return f"import os, signal; {ignored}print(os.getpid(), flush=True); signal.pause()"


STUBBORN = ignoring(signal.SIGINT, signal.SIGTERM)


def with_child(code: str, session: bool = False) -> str:
    """A program that starts another one, and ends."""
    start = f"Popen([sys.executable, '-c', {code!r}], stdout=PIPE, text=True, start_new_session={session})"
    return f"import sys; from subprocess import *; print({start}.stdout.readline(), end='', flush=True)"


class Command:
    """A supervised Python program, and the processes that said their ids."""

    def __init__(self, code: str, sentence: int, deadlines: Deadlines = SOON, *arguments: str) -> None:
        command = [sys.executable, "-c", code, *arguments]
        self.supervisor = supervisor.start(command, deadlines, cwd=ROOT, stdout=subprocess.PIPE)
        assert self.supervisor.stdout is not None
        self.processes = [psutil.Process(int(self.supervisor.stdout.readline())) for _ in range(sentence)]

    def assert_nobody_is_left(self) -> None:
        assert psutil.wait_procs(self.processes, timeout=60)[1] == []


@pytest.fixture(autouse=True)
def nobody_below() -> Iterator[None]:
    """A test that failed leaves nobody either; what was there before it stays."""
    before = psutil.Process().children(recursive=True)
    yield
    for process in psutil.Process().children(recursive=True):
        if process not in before:
            process.kill()


@pytest.mark.parametrize(
    ("ignored", "ended_by"),
    [
        ((), signal.SIGINT),
        ((signal.SIGINT,), signal.SIGTERM),
        ((signal.SIGINT, signal.SIGTERM), signal.SIGKILL),
    ],
)
def test_who_ignores_a_signal_gets_the_next(ignored: tuple[signal.Signals, ...], ended_by: signal.Signals) -> None:
    command = Command(ignoring(*ignored), sentence=1)
    supervisor.end(command.supervisor, SOON)
    assert command.supervisor.returncode == -ended_by
    command.assert_nobody_is_left()


@pytest.mark.parametrize("status", [0, 2, -signal.SIGKILL, -signal.SIGSEGV])
def test_the_status_is_the_commands(status: int) -> None:
    code = f"import os; os.kill(os.getpid(), {-status}) if {status} < 0 else os._exit({status})"
    assert Command(code, sentence=0).supervisor.wait(timeout=60) == status


@pytest.mark.parametrize("session", [False, True], ids=["in its group", "in a session of its own"])
def test_what_a_command_leaves_behind_is_ended(session: bool) -> None:
    command = Command(with_child(STUBBORN, session), sentence=1)
    assert command.supervisor.wait(timeout=60) == 0
    command.assert_nobody_is_left()


def test_who_checkpoints_has_its_time() -> None:
    """TERM would come an hour after INT."""
    leaving = "import os, signal, sys; signal.signal(2, lambda *_: sys.exit(7)); print(os.getpid(), flush=True)"
    command = Command(f"{leaving}; signal.pause()", sentence=1, deadlines=Deadlines(3600, 3600))
    supervisor.end(command.supervisor, SOON)
    assert command.supervisor.returncode == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_supervisor_ends_the_command(number: signal.Signals) -> None:
    command = Command(with_child(STUBBORN, session=True) + f"; exec({STUBBORN!r})", sentence=2)
    command.supervisor.send_signal(number)
    assert command.supervisor.wait(timeout=60) == -signal.SIGKILL
    command.assert_nobody_is_left()


def test_a_supervisor_that_is_killed_leaves_nobody_in_its_session() -> None:
    command = Command(with_child(STUBBORN) + f"; exec({STUBBORN!r})", sentence=2)
    command.supervisor.kill()
    supervisor.end(command.supervisor, SOON)
    command.assert_nobody_is_left()


INNER = """
import os, signal, sys, time
import psutil
def checkpoint(*_):
    starter = psutil.Process(int(sys.argv[1]))
    while starter.is_running() and starter.status() != "zombie":
        time.sleep(0.01)
    open(sys.argv[2], "w").close()
    os._exit(0)
signal.signal(signal.SIGINT, checkpoint)
print(os.getpid(), flush=True)
signal.pause()
"""
OUTER = """
import os, signal, sys
from training.runtime.supervisor import Deadlines, start
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
start([sys.executable, "-c", sys.argv[1], str(os.getpid()), sys.argv[2]], Deadlines(3600, 3600)).wait()
"""


def test_one_below_another_ends_its_own_with_its_own_deadlines(tmp_path: Path) -> None:
    """The outer one soon kills who started the inner one, whose command then writes its checkpoint."""
    written = tmp_path / "checkpoint"
    command = Command(OUTER, 1, SOON, INNER, str(written))
    supervisor.end(command.supervisor, SOON)
    command.assert_nobody_is_left()
    assert written.exists()


def test_nobody_outlives_a_starter_that_is_killed() -> None:
    start = f"start([sys.executable, '-c', {STUBBORN!r}], Deadlines(0.3, 0.3)).wait()"
    code = f"import sys; from training.runtime.supervisor import *; {start}"
    starter = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    command = psutil.Process(int(starter.stdout.readline()))
    starter.kill()
    starter.wait()
    assert psutil.wait_procs([command], timeout=60)[1] == []
