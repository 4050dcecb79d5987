"""`future-l1 serve` starts the server of another environment, waits until it is healthy, and leaves nothing behind."""

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.forks import COMMANDS, forked
from tests.loopback import free_port
from tests.processes import environment, future_l1, run, until
from training.runtime.project import PROJECT
from training.tiny import BASE

SERVER = f"""#!{sys.executable}
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
folder = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(folder, "arguments.json"), "w") as file:
    json.dump(sys.argv[1:], file)
if "--ends" in sys.argv:
    sys.exit("vLLM has no such option")
failures = [503, 503]

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(failures.pop() if failures else 200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_):
        pass

port = int(sys.argv[sys.argv.index("--port") + 1])
HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


NOBODY = "http://127.0.0.1:9"
"""A proxy that is not there."""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A stand-in for the interpreter of an environment with vLLM: it serves /health after two failures."""
    file = tmp_path / "python"
    file.write_text(SERVER)
    file.chmod(0o755)
    return file


def test_the_server_is_waited_for_and_ended(python: Path) -> None:
    port, log = free_port(), python.parent / "log.txt"
    command = future_l1("serve", "--checkpoint", BASE, "--port", port, "--python", python, "--", "--max-num-seqs", 4)
    with log.open("w") as lines:
        process = subprocess.Popen(
            command, cwd=PROJECT, env=environment(HTTP_PROXY=NOBODY, http_proxy=NOBODY), stdout=lines, stderr=lines,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
    try:
        until(lambda: "is served on" in log.read_text(), "the server is healthy", process=process)
        assert log.read_text() == f"{BASE} is served on http://127.0.0.1:{port}/v1 (Ctrl-C ends it)\n"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
            assert answer.status == 200
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) == 2, "the supervisor and the server"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 128 + signal.SIGINT
        assert psutil.wait_procs(family, timeout=60)[1] == []
    finally:
        process.kill()
    assert json.loads((python.parent / "arguments.json").read_text()) == [
        "-m", "training.engines", str(BASE), "--host", "127.0.0.1", "--port", str(port), "--max-num-seqs", "4",
    ]  # fmt: skip


@pytest.fixture
def commands_are_forks(forks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in forked(COMMANDS).items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("commands_are_forks")
def test_a_server_that_ends_is_an_error(python: Path) -> None:
    ended = run("serve", "--checkpoint", BASE, "--port", free_port(), "--python", python, "--", "--ends")
    assert ended.returncode == 1
    assert "vLLM has no such option" in ended.stderr and "vLLM's server ended with status 1" in ended.stderr


@pytest.mark.usefixtures("commands_are_forks")
def test_what_cannot_be_served_is_a_sentence(python: Path, tmp_path: Path) -> None:
    missing = run("serve", "--checkpoint", BASE, "--python", tmp_path / "none")
    assert f"there is no {tmp_path / 'none'}: the environment with vLLM" in missing.stderr
    profile = tmp_path / "mine.toml"
    profile.write_text(f'extends = "demo"\nvllm_python = "{tmp_path / "lost"}"\n')
    named = run("serve", "--checkpoint", BASE, FUTURE_L1_PROFILE=str(profile))
    assert f"there is no {tmp_path / 'lost'}: the environment with vLLM" in named.stderr
    no_model = run("serve", "--checkpoint", tmp_path, "--python", python)
    assert f"{tmp_path} is no model's folder" in no_model.stderr
    keyed = run("serve", "--checkpoint", BASE, "--python", python, "--", "--api_key=s3cret")
    assert "--api-key: everybody on this machine can read a command's options" in keyed.stderr
    assert "set VLLM_API_KEY in the environment" in keyed.stderr and "s3cret" not in keyed.stderr
    moved = run("serve", "--checkpoint", BASE, "--python", python, "--", "--por", "9")
    assert "--por after `--`: the server is waited for at --host and --port" in moved.stderr
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        used = run("serve", "--checkpoint", BASE, "--port", port, "--python", python)
    assert f"cannot serve on 127.0.0.1:{port}: Address already in use" in used.stderr
    assert [ended.returncode for ended in (missing, named, no_model, keyed, moved, used)] == [1] * 6
