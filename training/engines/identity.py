"""Which checkpoint a server has: each of its responses names it, by the hash of its files.

`--middleware training.engines.identity.CheckpointMiddleware`, for base models, too.  `python -m training.engines`
hashes the files before vLLM reads them; a client that has the same files compares.
"""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

HEADER = "future-l1-checkpoint"
VARIABLE = "FUTURE_L1_SERVED_CHECKPOINT"
"""The variable by which the server's process learns the hash (training.storage.hashing.model_digest)."""


class CheckpointMiddleware:
    """ASGI middleware; raises KeyError without the variable."""

    def __init__(self, app: Application) -> None:
        self._app, self._header = app, (HEADER.encode(), os.environ[VARIABLE].encode())

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), self._header]
            await send(message)

        await self._app(scope, receive, named if scope["type"] == "http" else send)
