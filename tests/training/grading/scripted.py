"""A judge that says what a test tells it, on loopback."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.served import completion, served
from training.grading.judge import JudgeSettings
from training.grading.toy_judge import MODEL, reply_to

Script = Callable[[int, dict[str, Any]], tuple[int, str]]


@contextmanager
def scripted(script: Script) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server whose n-th reply is `script(n, request)`: a status and the message content (or a whole body)."""

    def reply(number: int, request: dict[str, Any]) -> tuple[int, bytes]:
        status, content = script(number, request)
        return status, content.encode() if content.startswith("BODY") else completion([content])

    with served(script=reply) as server:
        yield server.url, server.requests


def toy_answer(request: dict[str, Any], _: int) -> str:
    """What the demo's judge says, from a server that can fail."""
    return json.dumps(reply_to(request["messages"][-1]["content"]))


def settings(base_url: str, **fields: Any) -> JudgeSettings:
    return JudgeSettings(**({"base_url": base_url, "model": MODEL, "retries": 2} | fields))


def verdict(word: str) -> str:
    return json.dumps({"verdict": word})
