"""The demo's judge: a deterministic OpenAI-compatible server on loopback, so that the real client path is what runs.

It understands nothing.  A verdict is "correct" when the normalised answer equals the normalised reference.  For
TwiFF-Bench the answer scores 5 or 0, and the chain 3 x the share of true statements (rounded), and 2 more where all are
true and the answer is the one that they lead to.  A statement is true if the reference makes it in the same place.
Without a reference chain the answer alone is scored.  It reports itself as model `toy-judge`.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from operator import eq
from typing import Any

from training.grading.parsers import normalised

MODEL = "toy-judge"


def reply_to(user: str | Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The judgement of one user message: a verdict payload (a JSON string) or TwiFF-Bench's content parts."""
    if isinstance(user, str):
        payload = json.loads(user)
        same = normalised(payload["reference"]) == normalised(payload["model_answer"])
        return {"verdict": "correct" if same else "incorrect"}
    sections = _sections([part["text"] if part["type"] == "text" else "<image>" for part in user])
    answer = normalised(json.loads(sections["Model Response Answer"]))
    right = bool(answer) and answer == normalised(sections["Ground Truth Answer"])
    if "Reference Reasoning Chain" not in sections:
        return {"reasoning": "the same text" if right else "another text", "score": 5 if right else 0}
    reference = _statements(sections["Reference Reasoning Chain"])
    response = _statements(json.loads(sections["Model Response Reasoning Chain"]))
    true = sum(map(eq, reference, response))
    agrees = right and bool(response) and response == reference
    return {
        "reasoning": f"{true} of {len(response)} statements are true, of {len(reference)} to make; "
        f"the answer {'agrees' if agrees else 'does not agree'} with them",
        "score": [round(3 * true / max(len(reference), len(response), 1)) + 2 * agrees, 5 if right else 0],
    }


@contextmanager
def serve() -> Iterator[str]:
    """Serves on a free loopback port while the context lasts; yields the base URL."""
    server = _Server(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name=MODEL, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _statements(chain: str) -> list[str]:
    """The normalised non-blank lines of a cleaned chain or, in a reference, texts between its images."""
    return [normalised(piece) for piece in chain.replace("<image>", "\n").splitlines() if piece.strip()]


def _sections(texts: Sequence[str]) -> dict[str, str]:
    """The payload's parts joined under their labels, which are parts of their own."""
    sections: dict[str, str] = {}
    label = ""
    for text in texts:
        name = text.strip().removesuffix(":")
        if text.strip().endswith(":") and name in LABELS:
            label = name
            sections[label] = ""
        elif label:
            sections[label] += text
    return sections


LABELS = (
    "Question",
    "Reference Reasoning Chain",
    "Ground Truth Answer",
    "Model Response Reasoning Chain",
    "Model Response Answer",
)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep-alive
    wbufsize = -1  # headers and body in one packet
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._send(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        else:
            self._send(404, {"error": {"message": f"no such path: {self.path}"}})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/v1/chat/completions":
            self._send(404, {"error": {"message": f"no such path: {self.path}"}})
            return
        request = json.loads(body)
        content = json.dumps(reply_to(request["messages"][-1]["content"]))
        message = {"role": "assistant", "content": content}
        self._send(
            200,
            {
                "id": MODEL,
                "object": "chat.completion",
                "created": 0,
                "model": MODEL,
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
            },
        )

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: the client counts its requests."""
