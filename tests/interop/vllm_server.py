"""`future-l1 serve` in the environment of vLLM, and clients of it."""

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError

from tests.interop.chats import Answer, decoded_spans
from tests.interop.demo import Demo
from tests.loopback import free_port
from tests.processes import future_l1, until
from training.engines.requests import RETURN

IN_FLIGHT = 16
SERVED_NAME = "served"
NO_VARIABLES: Mapping[str, str] = {}

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Server:
    """A server, and the key that it asks for."""

    url: str
    key: str

    def post(self, body: Mapping[str, Any], path: str = "chat/completions", key: str | None = None) -> tuple[int, Any]:
        """Status and body of the response; `key`: another than the right one."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key or self.key}"}
        data = json.dumps({"model": SERVED_NAME, **body}).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(f"{self.url}/{path}", data, headers)) as response:
                return response.status, json.load(response)
        except HTTPError as error:
            return error.code, json.load(error)

    def answer(self, chat: Mapping[str, Any], limit: int, **options: Any) -> tuple[Answer, dict[str, Any]]:
        """The greedy answer to a chat, and the whole response."""
        fields = {"temperature": 0, "max_tokens": limit, "return_token_ids": True, RETURN: True}
        status, body = self.post({**chat, **fields, **options})
        assert status == 200, body
        (choice,) = body["choices"]
        return (choice["token_ids"], decoded_spans(choice["latents"])), body


@contextmanager
def served(
    demo: Demo, checkpoint: Path, work: Path, *options: Any, variables: Mapping[str, str] = NO_VARIABLES
) -> Iterator[Server]:
    """`future-l1 serve`, until the context ends; `variables`: more of its environment."""
    port, log, key = free_port(), work / "serve.txt", "of-the-server"
    command = future_l1("serve", "--checkpoint", checkpoint, "--port", port, "--python", demo.vllm, "--",
                        "--served-model-name", SERVED_NAME, "--max-num-seqs", IN_FLIGHT, *options)  # fmt: skip
    environment = os.environ | {"VLLM_API_KEY": key} | variables
    with log.open("w") as lines:
        process = subprocess.Popen(command, stdout=lines, stderr=lines, env=environment)
    try:
        until(lambda: "is served on" in log.read_text(), f"vLLM is healthy ({log})", 600, process=process)
        yield Server(f"http://127.0.0.1:{port}/v1", key)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def in_flight(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """The results for all items, in order, several at a time."""
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        return list(pool.map(function, items))
