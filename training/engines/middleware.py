"""vLLM's OpenAI server, around its own application: requests that are none are refused, and latents come back on
request.

`--middleware training.engines.middleware.LatentMiddleware`.  A chat request with `"return_latents": true` gets, in each
of its choices, `latents`: a string for each span, as `options.encode_span` writes it; or, where they cannot be had,
`latents_error`, a sentence.
"""

import json
from collections.abc import Iterable, MutableMapping
from typing import Any

from training.engines.identity import Application, Message, Receive, Send
from training.engines.latent_model import LatentModel, latent_model
from training.engines.options import Returned
from training.engines.requests import prepared

JSON = ((b"content-type", b"application/json"),)
MAX_BODY = 2**28
"""Bytes of a request, with its pictures."""


class LatentMiddleware:
    """ASGI middleware; the engine is the one that vLLM keeps in its application's state.

    A body is read when the application asks for it.  That is after vLLM's authentication, which is within this: whom
    vLLM does not know sends headers alone.
    """

    def __init__(self, app: Application) -> None:
        self._app = app
        self._model: LatentModel | None = None

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        engine = scope["app"].state.engine_client
        exchange = _Exchange(scope["path"], self._latent_model(engine), receive, send)
        latents: dict[int, Returned] = {}
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except ValueError:
            if exchange.refusal is None:
                raise
        finally:  # also for a client that has gone: nothing stays behind
            if exchange.key is not None:
                latents = _merged(await engine.collective_rpc("take_latents", args=(exchange.key,)))
        await exchange.finish(latents)

    def _latent_model(self, engine: Any) -> LatentModel | None:
        """None for a checkpoint without latents."""
        config = engine.model_config.hf_config
        if self._model is None and hasattr(config, "future_l1"):
            self._model = latent_model(config, engine.renderer.get_tokenizer())
        return self._model


class _Exchange:
    """A request and its response, between the server and vLLM's application.

    refusal: why the request is refused, with its status.  key: under which its latents are kept, where they are
    returned.  In both cases the response is held back until `finish`.
    """

    def __init__(self, path: str, model: LatentModel | None, receive: Receive, send: Send) -> None:
        self.refusal: tuple[int, str] | None = None
        self.key: str | None = None
        self._path, self._model, self._receive, self._send = path, model, receive, send
        self._is_read = False
        self._status, self._body = 500, bytearray()
        self._headers: list[tuple[bytes, bytes]] = []

    async def receive(self) -> Message:
        """The request's body as vLLM is to see it; then what else comes.  Raises ValueError for a refused request."""
        if self._is_read:
            return await self._receive()
        self._is_read = True
        body = bytearray()  # bytes would be copied whole for each part
        while True:
            message = await self._receive()
            if message["type"] != "http.request":  # the client has gone
                return message
            body += message.get("body", b"")
            if len(body) > MAX_BODY:
                self.refusal = 413, f"the request is larger than {MAX_BODY >> 20} MiB: send smaller or fewer pictures"
                raise ValueError(self.refusal)
            if not message.get("more_body", False):
                return {"type": "http.request", "body": self._prepared(bytes(body)), "more_body": False}

    def _prepared(self, body: bytes) -> bytes:
        try:
            request = json.loads(body)
        except (ValueError, RecursionError):
            return body  # vLLM says what is wrong with it
        if not isinstance(request, dict):
            return body
        try:
            self.key = prepared(request, self._path, self._model)
        except ValueError as error:
            self.refusal = 400, str(error)
            raise
        return body if self.key is None else json.dumps(request).encode()

    async def send(self, message: Message) -> None:
        """A part of the application's response."""
        if self.key is None and self.refusal is None:
            await self._send(message)
        elif message["type"] == "http.response.start":
            self._status, self._headers = message["status"], list(message["headers"])
        elif message["type"] == "http.response.body":
            self._body += message.get("body", b"")

    async def finish(self, latents: dict[int, Returned]) -> None:
        """Sends the response that was held back, if one was, with these latents by the number of the choice."""
        if self.refusal is not None:
            await self._respond(self.refusal[0], _error(*self.refusal), JSON)
        elif self.key is not None and self._status == 200:
            response = json.loads(self._body)
            if not {choice["index"] for choice in response["choices"]} <= latents.keys():
                await self._respond(503, _error(503, "the latents of an answer were dropped: send it again"), JSON)
                return
            for choice in response["choices"]:
                choice |= latents[choice["index"]]
            await self._respond(200, json.dumps(response).encode(), self._headers)
        elif self.key is not None:
            await self._respond(self._status, bytes(self._body), self._headers)

    async def _respond(self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
        kept = [(name, value) for name, value in headers if name.lower() != b"content-length"]
        headers = [*kept, (b"content-length", str(len(body)).encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def _merged(of_workers: list[dict[int, Returned]]) -> dict[int, Returned]:
    """The workers of one model have the same latents."""
    return {number: fields for of_worker in of_workers for number, fields in of_worker.items()}


def _error(status: int, message: str) -> bytes:
    kind = "BadRequestError" if status < 500 else "InternalServerError"
    error = {"message": message, "type": kind, "param": None, "code": status}
    return json.dumps({"error": error}).encode()
