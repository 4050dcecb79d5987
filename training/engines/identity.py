"""Which checkpoint and plug-in a server has: each of its responses names them, by the hashes of their files.

`--middleware training.engines.identity.IdentityMiddleware`, for base models, too.  `python -m training.engines`
hashes a checkpoint before vLLM reads it; a client that has the same files compares.
"""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from training.storage.hashing import digest, file_digest

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

CHECKPOINT_HEADER, PLUGIN_HEADER = "future-l1-checkpoint", "future-l1-plugin"
CHECKPOINT_VARIABLE = "FUTURE_L1_SERVED_CHECKPOINT"
"""The variable by which the server's process learns the hash (training.storage.hashing.model_digest)."""


def plugin_digest() -> str:
    """Sixteen hex digits that change with the files that latents are fed by."""
    training = Path(__file__).parents[1]
    files = sorted(path for room in ("engines", "model") for path in (training / room).glob("*.py"))
    return digest({str(path.relative_to(training)): file_digest(path) for path in files})


class IdentityMiddleware:
    """ASGI middleware; raises KeyError without the variable."""

    def __init__(self, app: Application) -> None:
        values = {CHECKPOINT_HEADER: os.environ[CHECKPOINT_VARIABLE], PLUGIN_HEADER: plugin_digest()}
        self._app, self._headers = app, [(name.encode(), value.encode()) for name, value in values.items()]

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self._headers]
            await send(message)

        await self._app(scope, receive, named if scope["type"] == "http" else send)
