"""`python -m tests.forks.server ADDRESS`: forks for `tests.forks.client`, until standard input ends."""

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import time
from contextlib import suppress

import tests.forks.imported  # noqa: F401

GRACE = 20.0
"""Seconds, after standard input has ended, for programs that are ending by themselves."""


def serve(address: str) -> list[str]:
    """In a fork, the arguments of Python after `-m`, with which it is to go on."""
    programs: dict[int, socket.socket] = {}
    names: dict[int, str] = {}
    waking, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("listening", flush=True)
        while True:
            ready, _, _ = select.select([0, waking, listener, *programs.values()], [], [])
            if listener in ready:
                client, _ = listener.accept()
                try:
                    arguments, environment, folder, streams = _request(client)
                except (OSError, ValueError):  # it was killed before it had said what it wants
                    client.close()
                    continue
                if (pid := os.fork()) == 0:
                    break
                _tell(client, pid)
                programs[pid], names[pid] = client, " ".join(arguments)
                for stream in streams:
                    os.close(stream)
            elif waking in ready:
                os.read(waking, 4096)
                _report(programs)
            elif 0 in ready:
                _wait(programs, waking)
                print(*(f"{names[pid]}\n" for pid in programs), sep="", end="", flush=True)
                _kill(programs)
                os._exit(0)  # to take all that was imported apart would take as long as a program
            else:
                _kill({pid: client for pid, client in programs.items() if client in ready})
                _report(programs)
    for one in (client, *programs.values()):
        one.close()
    _become(environment, folder, streams)
    return arguments


def _request(client: socket.socket) -> tuple[list[str], dict[str, str], str, list[int]]:
    size, streams, _, _ = socket.recv_fds(client, 4, 3)
    with client.makefile("rb") as file:
        arguments, environment, folder = json.loads(file.read(int.from_bytes(size, "big")))
    return arguments, environment, folder, streams


def _report(programs: dict[int, socket.socket]) -> None:
    """Tells the clients of those that have ended how."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            with programs.pop(ended[0]) as client:
                _tell(client, os.waitstatus_to_exitcode(ended[1]))


def _tell(client: socket.socket, number: int) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # it was killed
        client.sendall(b"%d\n" % number)


def _wait(programs: dict[int, socket.socket], waking: int) -> None:
    """Until all have ended, but no longer than GRACE."""
    end = time.monotonic() + GRACE
    while programs and (rest := end - time.monotonic()) > 0:
        ready, _, _ = select.select([waking, *programs.values()], [], [], rest)
        if waking in ready:
            os.read(waking, 4096)
        _kill({pid: client for pid, client in programs.items() if client in ready})
        _report(programs)


def _kill(programs: dict[int, socket.socket]) -> None:
    """Kills programs whose client is gone."""
    for pid in programs:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def _become(environment: dict[str, str], folder: str, streams: list[int]) -> None:
    """As if started there, with these."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setpgid(0, 0)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)


def _run() -> int:
    """Runs the module that `sys.argv` begins with, as Python does; returns its status."""
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if not isinstance(end.code, str):
            return int(end.code or 0)
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        return 1
    return 0


if __name__ == "__main__":
    gc.freeze()
    sys.argv = serve(sys.argv[1])
    status = _run()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # as above
