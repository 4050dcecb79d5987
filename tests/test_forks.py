"""The process whose forks the tests' programs are."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.forks import ADDRESS


def test_a_client_that_is_killed_at_any_moment_ends_no_other(fork_server: dict[str, str]) -> None:
    program = ["training.sft", "--help"]
    request = json.dumps([program, dict(os.environ), str(Path.cwd())]).encode()
    with Path(os.devnull).open("w") as nowhere:
        for sent in (b"", request[:9], request):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(fork_server[ADDRESS])
                if sent:
                    socket.send_fds(client, [len(request).to_bytes(4, "big")], [nowhere.fileno()] * 3)
                    client.sendall(sent)
    command = [sys.executable, "-m", *program]
    ended = subprocess.run(command, env=os.environ | fork_server, check=True, capture_output=True, text=True)
    assert "python -m training.sft" in ended.stdout
