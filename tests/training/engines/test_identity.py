"""Every response names the checkpoint and the plug-in that the server has."""

import asyncio
from typing import Any

import pytest

from training.engines.identity import (
    CHECKPOINT_HEADER,
    CHECKPOINT_VARIABLE,
    PLUGIN_HEADER,
    IdentityMiddleware,
    plugin_digest,
)


def test_responses_of_every_kind_have_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHECKPOINT_VARIABLE, "0123456789abcdef")
    start = {"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"2")]}
    body = {"type": "http.response.body", "body": b"{}"}
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in (start, body) if scope["type"] == "http" else ({"type": "lifespan.startup.complete"},):
            await send(dict(message))

    async def send(message: Any) -> None:
        sent.append(message)

    middleware = IdentityMiddleware(app)
    for scope in ("http", "lifespan"):
        asyncio.run(middleware({"type": scope}, None, send))  # type: ignore[arg-type]
    headers = [
        (b"content-length", b"2"),
        (CHECKPOINT_HEADER.encode(), b"0123456789abcdef"),
        (PLUGIN_HEADER.encode(), plugin_digest().encode()),
    ]
    assert sent == [start | {"headers": headers}, body, {"type": "lifespan.startup.complete"}]
