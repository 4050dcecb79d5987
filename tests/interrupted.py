"""A command that gets signals at a chosen moment: its status, what it said, and that nobody of it is left."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
GUARD = 60.0
"""Seconds; a command that is told to end and does not would be waited for in vain."""


def interrupted(
    command: Sequence[str], environment: Mapping[str, str], begun: Callable[[], object], *numbers: signal.Signals
) -> str:
    """Starts a command, as a shell starts its background jobs, and sends it `numbers` once `begun` says so.

    Returns what it said on stderr, having checked that it said how to go on, that its status is the first signal's, and
    that nobody whom it started is left.
    """
    process = subprocess.Popen(
        command, cwd=ROOT, env=dict(environment), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    try:
        wait_until(begun, process)
        family = psutil.Process(process.pid).children(recursive=True)
        for number in numbers:
            process.send_signal(number)
        _, said = process.communicate(timeout=GUARD)
    finally:
        process.kill()
    assert process.returncode == 128 + numbers[0], said
    assert f"stopped by {numbers[0].name}: " in said, said
    _, alive = psutil.wait_procs(family, timeout=GUARD)
    assert alive == []
    return said


def wait_until(begun: Callable[[], object], process: "subprocess.Popen[str]", seconds: float = 300.0) -> None:
    """Until `begun` returns something true, while the process lives."""
    deadline = time.monotonic() + seconds
    while not begun():
        assert process.poll() is None, f"it ended before: {process.communicate()}"
        assert time.monotonic() < deadline, "it never came so far"
        time.sleep(0.01)


class FileServer:
    """Files over HTTP; requests for what is below a path in `held` wait until it is let go."""

    def __init__(self, folder: Path) -> None:
        self.held: set[str] = set()
        self.asked: list[str] = []
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self, directory=str(folder)))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def waits_for(self, path: str) -> Callable[[], bool]:
        """Whether somebody waits for something below the path, which is held from now on."""
        self.held.add(path)
        return lambda: any(asked.startswith(path) for asked in self.asked)

    def let_go(self) -> None:
        with self._changed:
            self.held.clear()
            self.asked.clear()
            self._changed.notify_all()

    def wait(self, path: str) -> None:
        self.asked.append(path)
        with self._changed:
            self._changed.wait_for(lambda: not any(path.startswith(held) for held in self.held))

    @contextmanager
    def serving(self) -> "Iterator[FileServer]":
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield self
        finally:
            self.let_go()
            self._server.shutdown()
            self._server.server_close()


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, files: FileServer, *arguments: object, directory: str) -> None:
        self.files = files
        super().__init__(*arguments, directory=directory)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self.files.wait(self.path)
        try:
            super().do_GET()
        except (BrokenPipeError, ConnectionResetError):  # who asked has gone
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None: ...


def environment(**more: str) -> dict[str, str]:
    """Of a command of ours on one core, with a home of its own."""
    dropped = {"FUTURE_L1_PROFILE", "FUTURE_L1_HOME", "SEED"}
    return {name: value for name, value in os.environ.items() if name not in dropped} | {"OMP_NUM_THREADS": "1"} | more
