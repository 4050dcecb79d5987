"""Runs a command that ends, with everything that it started, when the process that started it ends.

    python -m training.runtime.supervisor SECONDS_TO_CHECKPOINT SECONDS_TO_LEAVE COMMAND...

A training would outlive the Dagster step that started it when that step's process is killed outright (out of memory, a
reboot of the daemon), and go on using a device that Dagster believes to be free. So this process stays between them.
Its standard input, if a pipe, is a leash: when the other end is let go, deliberately or because its holder is gone, the
command and all that descends from it get INT (write a checkpoint and leave), TERM and KILL, each with a deadline. INT
or TERM sent to this process do the same. What a command leaves behind when it ends by itself gets TERM and KILL.

Descendants are found by their parents, and orphans among them become children of this process, so that leaving the
group or the session is no way out. A supervisor below another one ends what is its own, with its own deadlines. The
status is the command's: of a command that a signal killed, the same signal.
"""

import ctypes
import os
import resource
import select
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

TETHERED = "FUTURE_L1_TETHERED"
"""The environment variable of a program that ends with the process that started it, and of what it starts."""
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
SECONDS_TO_DIE = 60.0
"""The wait after KILL: a process that is still there waits inside the kernel, and no signal reaches it."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Deadlines(NamedTuple):
    """sigint_grace: from INT to TERM.  sigterm_grace: from TERM to KILL."""

    sigint_grace: float
    sigterm_grace: float

    def steps(self) -> list[tuple[signal.Signals, float]]:
        """The signals in order, each with the seconds until the next."""
        return [
            (signal.SIGINT, self.sigint_grace),
            (signal.SIGTERM, self.sigterm_grace),
            (signal.SIGKILL, SECONDS_TO_DIE),
        ]


def start(command: Sequence[str], deadlines: Deadlines, **options: Any) -> subprocess.Popen[str]:
    """The supervisor of a command, in a session of its own; the command ends when we do, or call `end`.

    options: for subprocess.Popen; `env` has what `training.runtime.project.python_variables` says.
    """
    seconds = [str(deadlines.sigint_grace), str(deadlines.sigterm_grace)]
    supervisor = [sys.executable, "-m", "training.runtime.supervisor", *seconds, *command]
    return subprocess.Popen(supervisor, stdin=subprocess.PIPE, text=True, start_new_session=True, **options)


def request_stop(supervisor: subprocess.Popen[str]) -> None:
    """Asks a supervisor to end its command; returns at once."""
    assert supervisor.stdin is not None
    supervisor.stdin.close()


def end(supervisor: subprocess.Popen[str], deadlines: Deadlines) -> None:
    """Ends a supervisor's command and all that it started; returns when no process is left."""
    from training.runtime.processes import end_all, of_session

    request_stop(supervisor)
    supervisor.wait()
    # No process is left, unless the supervisor itself was killed: then those that did not leave its session.
    end_all(lambda: of_session(supervisor.pid), deadlines.steps())


def main(arguments: Sequence[str]) -> int:
    """Runs a command to its end, or to ours; returns its status."""
    deadlines, command = Deadlines(float(arguments[0]), float(arguments[1])), arguments[2:]
    prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans below become ours
    signals = _signal_pipe((signal.SIGCHLD, *STOP_SIGNALS))
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        env={**os.environ, TETHERED: "1"},
        close_fds=False,  # locks that it is to hold
        process_group=0,
        preexec_fn=die_with_parent,  # should this process be killed
    )
    from training.runtime.processes import descendants, end_all  # while the command starts

    stopping = False
    while not stopping and child.poll() is None:
        stopping = _wait_for_event(signals)
        _reap_orphans(child.pid)
    if _has_children():
        end_all(lambda: descendants(os.getpid()), deadlines.steps() if child.poll() is None else deadlines.steps()[1:])
    status = child.wait()
    _reap_orphans(child.pid)
    return status


def die_with_parent() -> None:
    """Asks the kernel for SIGTERM when this process's parent ends, also after `exec` (Linux); OSError if it refuses."""
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def prctl(option: int, value: int) -> None:
    """Sets an attribute of this process (Linux); raises OSError if the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value}) failed")


def _signal_pipe(numbers: Sequence[int]) -> int:
    """A descriptor with a byte for each of these signals that arrives."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in numbers:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    return reading


def _wait_for_event(signals: int) -> bool:
    """Waits for a signal or for the leash; returns whether either asks to stop."""
    leash = sys.stdin.fileno()
    ready, _, _ = select.select([leash, signals] if _is_pipe(leash) else [signals], [], [])
    released = leash in ready and not os.read(leash, 4096)
    return released or (signals in ready and not set(os.read(signals, 4096)).isdisjoint(STOP_SIGNALS))


def _is_pipe(descriptor: int) -> bool:
    """Whether a process can hold the other end; an engine of a cluster gives /dev/null, and sends signals."""
    return stat.S_ISFIFO(os.fstat(descriptor).st_mode)


def _reap_orphans(child: int) -> None:
    """Reaps orphans that became ours and have ended; the command itself is its Popen's."""
    with suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid != child:
            os.waitpid(ended.si_pid, 0)


def _has_children() -> bool:
    """Whether any process below is left: an orphan would be ours."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def exit_like_command(status: int) -> None:
    """Ends with the status or the signal of the command."""
    if status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == "__main__":
    exit_like_command(main(sys.argv[1:]))
