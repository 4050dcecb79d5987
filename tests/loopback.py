"""HTTP servers on a free port of loopback, for as long as a context lasts."""

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Quiet:
    """For a request handler that logs nothing."""

    def log_message(self, format: str, *args: Any) -> None: ...


class _Server(ThreadingHTTPServer):
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has closed its connection is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serving(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serves with a handler; yields the server's URL, without a path."""
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class FileServer:
    """Files over HTTP: the next `failing` requests get 503, and those below a held path wait until `release`."""

    url: str

    def __init__(self) -> None:
        self.failing = 0
        self.requests: list[str] = []
        self._held: set[str] = set()
        self._changed = threading.Condition()

    def hold(self, path: str) -> Callable[[], bool]:
        """Holds requests below a path; returns whether one waits."""
        self._held.add(path)
        return lambda: any(request.startswith(path) for request in self.requests)

    def release(self) -> None:
        with self._changed:
            self._held.clear()
            self.requests.clear()
            self._changed.notify_all()

    def admit(self, path: str) -> bool:
        """Whether a request is to be answered; returns once it is not held."""
        self.requests.append(path)
        with self._changed:
            self._changed.wait_for(lambda: not any(path.startswith(held) for held in self._held))
        if self.failing:
            self.failing -= 1
            return False
        return True


@contextmanager
def file_server(folder: Path) -> Iterator[FileServer]:
    files = FileServer()
    with serving(partial(_FileHandler, files, directory=str(folder))) as files.url:
        try:
            yield files
        finally:
            files.release()


class _FileHandler(Quiet, SimpleHTTPRequestHandler):
    def __init__(self, files: FileServer, *arguments: Any, directory: str) -> None:
        self.files = files
        super().__init__(*arguments, directory=directory)

    def do_GET(self) -> None:
        if self.files.admit(self.path):
            super().do_GET()
        else:
            self.send_error(503)
