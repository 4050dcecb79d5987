"""A process in whose place a fork works."""

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from training.runtime.supervisor import exit_like_command

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_as_fork(address: str) -> NoReturn:
    """Has a fork of the server at this address do what this process was started for, and ends with its status."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        request = json.dumps([sys.orig_argv[2:], dict(os.environ), str(Path.cwd())]).encode()
        socket.send_fds(server, [len(request).to_bytes(4, "big")], [0, 1, 2])
        server.sendall(request)
        with server.makefile() as lines:
            fork = int(lines.readline())

            def forward(number: int, _: object) -> None:
                with suppress(ProcessLookupError):
                    os.kill(fork, number)

            for number in FORWARDED:
                signal.signal(number, forward)
            status = int(lines.readline())
    if status < 0:
        exit_like_command(status)
    os._exit(status)  # sitecustomize may not raise SystemExit
