"""Servers that a command starts and waits for: their address, their health and their end."""

import socket
import subprocess
import urllib.request
from collections.abc import Mapping
from http.client import HTTPResponse


class UnhealthyError(RuntimeError):
    """A server did not become healthy, or ended by itself."""


def url_of(host: str, port: int) -> str:
    """The address of a server, without a path."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def ask(request: urllib.request.Request | str) -> HTTPResponse:
    """The answer of a server on this machine, within seconds.

    A proxy from the environment would not find it.  Raises OSError where it does not answer, or not with a success.
    """
    response: HTTPResponse = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5)
    return response


def raise_if_port_in_use(host: str, port: int) -> None:
    """Bind the address once: a server itself would fail only after it has loaded what it serves."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UnhealthyError(f"cannot serve on {host}:{port}: {error.strerror}; another --port may do") from error


def raise_if_ended(children: Mapping[str, subprocess.Popen[str]]) -> None:
    """Raises UnhealthyError with the name of a process that has ended; its options may be nobody's business."""
    for name, child in children.items():
        if child.poll() is not None:
            raise UnhealthyError(f"{name} ended with status {child.returncode}; its last lines are above")
