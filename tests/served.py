"""An OpenAI-compatible chat server on loopback, with faults of chosen kinds at a chosen rate.

An answer is a function of the request alone, so it depends neither on time nor on the faults before it.
"""

import json
import random
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal

from tests.loopback import Quiet, free_port, serving

Fault = Literal["rate", "error", "timeout", "truncated", "malformed", "fewer", "empty"]
FAULTS: tuple[Fault, ...] = ("rate", "error", "timeout", "truncated", "malformed", "fewer", "empty")
Answer = Callable[[dict[str, Any], int], Any]  # (request, choice number) -> content
Chunks = Callable[[], Iterator[bytes]]


@dataclass
class Served:
    """The server's state, which tests may change while it serves.

    `script` comes first: (status, body[, headers]) for the n-th request, or None; a body may be a function that yields
    chunks.
    """

    answer: Answer = lambda request, choice: "an answer"
    faults: float = 0.0  # share of the requests with a fault of `kinds`
    kinds: Sequence[Fault] = FAULTS
    seed: int = 0
    latency: float = 0.0  # seconds
    hangs: float = 5.0  # seconds of a "timeout", more than the client waits
    retry_after: Mapping[str, str] = field(default_factory=lambda: {"Retry-After": "0.01"})
    models: Any = ("served",)  # ids; None: no such path; bytes: the body; a list: (status, body[, headers])
    key: str | None = None
    script: Callable[[int, dict[str, Any]], tuple[Any, ...] | None] = lambda number, request: None
    usage: tuple[int, int] = (100, 7)  # prompt tokens, completion tokens of one choice
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)  # bodies as they arrived
    headers: list[Mapping[str, str]] = field(default_factory=list)
    fault_counts: Counter[str] = field(default_factory=Counter)
    choices: int = 0  # sent whole
    in_flight: int = 0
    max_in_flight: int = 0

    def __post_init__(self) -> None:
        self.lock, self.closing, self._draw = threading.Lock(), threading.Event(), random.Random(self.seed)

    def fault(self) -> Fault | None:
        return self._draw.choice(self.kinds) if self._draw.random() < self.faults else None


@contextmanager
def served(answer: Answer = Served.answer, **options: Any) -> Iterator[Served]:
    """Serves on a free loopback port while the context lasts."""
    state = Served(answer=answer, **options)
    with serving(type("Handler", (_Handler,), {"state": state})) as url:
        state.url = f"{url}/v1"
        try:
            yield state
        finally:
            state.closing.set()


def closed_url() -> str:
    """The URL of no server: connections to it are refused."""
    return f"http://127.0.0.1:{free_port()}/v1"


def completion(
    contents: Sequence[Any], finish_reason: str | None = "stop", usage: tuple[int, int] = (100, 7), **more: Any
) -> bytes:
    """The body of a chat completion; `more`: other fields of each message."""
    choices = [
        {"index": i, "finish_reason": finish_reason, "message": {"role": "assistant", "content": content, **more}}
        for i, content in enumerate(contents)
    ]
    used = {"prompt_tokens": usage[0], "completion_tokens": usage[1] * len(choices)}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "served", "choices": choices, "usage": used}
    return json.dumps(body).encode()


def user_text(request: Mapping[str, Any]) -> str:
    """All text of the user turn."""
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(p["text"] for p in content if p["type"] == "text")


class _Handler(Quiet, BaseHTTPRequestHandler):
    state: Served
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_GET(self) -> None:
        state = self.state
        if self.path != "/v1/models" or state.models is None:
            self._send(404, b'{"error": "no such path"}')
        elif self._refuses_key():
            return
        elif isinstance(state.models, tuple):
            data = [{"id": name, "object": "model"} for name in state.models]
            self._send(200, json.dumps({"object": "list", "data": data}).encode())
        elif isinstance(state.models, list):
            self._send(*state.models)
        else:
            self._send(200, state.models)

    def do_POST(self) -> None:
        state, request = self.state, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with state.lock:
            number = len(state.requests)
            state.requests.append(request)
            state.headers.append(dict(self.headers))
            fault = state.fault()
            state.in_flight += 1
            state.max_in_flight = max(state.max_in_flight, state.in_flight)
        try:
            if state.latency:
                state.closing.wait(state.latency)
            if not self.path.endswith("/v1/chat/completions"):
                self._send(404, b'{"error": "no such path"}')
            elif not self._refuses_key():
                self._reply(number, request, fault)
        finally:
            with state.lock:
                state.in_flight -= 1

    def _reply(self, number: int, request: dict[str, Any], fault: Fault | None) -> None:
        state = self.state
        scripted = state.script(number, request)
        if scripted:
            self._send(*scripted)
            return
        n = request.get("n", 1)
        if fault == "fewer" and n == 1:
            fault = None
        if fault:
            with state.lock:
                state.fault_counts[fault] += 1
        match fault:
            case "rate":
                self._send(429, b'{"error": {"message": "slow down"}}', state.retry_after)
            case "error":
                self._send(500, b'{"error": {"message": "oops"}}')
            case "timeout":
                state.closing.wait(state.hangs)
                self.close_connection = True
            case "malformed":
                self._send(200, b'{"choices": [{"mess')
            case "empty":
                self._send(200, completion([None] * n, finish_reason=None))
            case _:
                choices = range(n // 2 if fault == "fewer" else n)
                body = completion([state.answer(request, i) for i in choices], usage=state.usage)
                self._send(200, body, cut=fault == "truncated")
                if fault != "truncated":
                    with state.lock:
                        state.choices += len(choices)

    def _refuses_key(self) -> bool:
        wrong = self.state.key is not None and self.headers.get("Authorization") != f"Bearer {self.state.key}"
        if wrong:
            message = f"no such key: {self.headers.get('Authorization')}"  # as some servers answer
            self._send(401, json.dumps({"error": {"message": message}}).encode())
        return wrong

    def _send(
        self, status: int, body: bytes | Chunks, headers: Mapping[str, str] | None = None, cut: bool = False
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if isinstance(body, bytes):
            self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if not isinstance(body, bytes):
            self.close_connection = True
            for chunk in body():
                self.wfile.write(chunk)
                self.wfile.flush()
            return
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.wfile.flush()
        self.close_connection = self.close_connection or cut


def main() -> None:
    """`python -m tests.served LATENCY`: a judge that finds everything wrong, until stdin closes."""
    with served(lambda *_: '{"verdict": "incorrect"}', latency=float(sys.argv[1])) as server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
