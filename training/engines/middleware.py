"""vLLM's OpenAI server, around its own application: prompts with latents are refused, and latents come back on request.

`--middleware training.engines.middleware.LatentMiddleware`.  A chat request with `"return_latents": true` gets, in each
of its choices, `latents`: a string for each span, as `options.encode_span` writes it.
"""

import json
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from itertools import chain
from typing import Any

import torch

from training.engines.kept import LATENTS_IN_PROMPT
from training.engines.options import PREFIX, latent_options
from training.model.tokens import LATENT

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

RETURN = "return_latents"
CHAT = "/v1/chat/completions"
JSON = ((b"content-type", b"application/json"),)


class LatentMiddleware:
    """ASGI middleware; the engine is the one that vLLM keeps in its application's state."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body = await _read(receive)
        try:
            request = json.loads(body)
        except (ValueError, RecursionError):
            request = None  # vLLM says what is wrong with it
        if not isinstance(request, dict):
            await self._app(scope, _replay(body, receive), send)
            return
        engine = scope["app"].state.engine_client
        try:
            key = _prepare(request, scope["path"], engine.model_config.hf_config)
        except ValueError as error:
            await _respond(send, 400, _error(str(error)))
            return
        if key is None:
            await self._app(scope, _replay(body, receive), send)
            return
        answered = _Response()
        try:
            await self._app(scope, _replay(json.dumps(request).encode(), receive), answered.send)
        finally:  # also for a client that has gone: nothing stays behind
            latents = _merged(await engine.collective_rpc("take_latents", args=(key,)))
        is_answer = answered.status == 200
        body = _with_latents(answered.body, latents) if is_answer else answered.body
        await _respond(send, answered.status, body, answered.headers)


def _prepare(request: dict[str, Any], path: str, config: Any) -> str | None:
    """Checks a request and, where its latents are to be returned, adds the key under which they are kept.

    `config` is the checkpoint's.  Raises ValueError with what is wrong; what gets past it gets an empty answer.
    """
    if _holds_latents(request, config.latent_id):
        raise ValueError(LATENTS_IN_PROMPT)
    if request.get("use_beam_search"):
        raise ValueError("a beam is a new request, whose prompt would hold latents: leave out use_beam_search")
    params = request.get("sampling_params")  # of vLLM's own requests with token ids
    xargs = request.get("vllm_xargs", params.get("extra_args") if isinstance(params, dict) else None)
    options = latent_options(xargs if isinstance(xargs, dict) else None)
    if options.return_key is not None or options.first_seed is not None:
        raise ValueError(f"{PREFIX}return_key and {PREFIX}first_seed are the server's own: ask with {RETURN}")
    options.intervention(config.text_config.hidden_size, 0, torch.device("cpu"))
    if not request.pop(RETURN, False):
        return None
    if not path.endswith(CHAT):
        raise ValueError(f"{RETURN} is for {CHAT}")
    if request.get("stream"):
        raise ValueError(f"{RETURN} and stream exclude each other: latents come with the whole answer")
    key, fields = secrets.token_hex(16), {}
    if (request.get("n") or 1) != 1:
        seed = request.get("seed")
        fields[f"{PREFIX}first_seed"] = request["seed"] = secrets.randbits(62) if seed is None else seed
    request["vllm_xargs"] = {**(xargs or {}), f"{PREFIX}return_key": key, **fields}
    return key


def _holds_latents(request: dict[str, Any], latent: int) -> bool:
    """Whether a request has a latent's placeholder, as text anywhere (tools and more are in prompts, too) or as a token
    of a prompt."""
    pending: list[Any] = [request]
    while pending:
        value = pending.pop()
        if isinstance(value, str) and LATENT in value:
            return True
        pending += value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    prompts = [request.get(field) for field in ("prompt", "token_ids")]
    lists = [prompt for prompt in prompts if isinstance(prompt, list)]
    return any(latent in p if isinstance(p, list) else p == latent for p in chain(*lists))


def _merged(of_workers: list[dict[int, list[str]]]) -> dict[int, list[str]]:
    """The workers of one model have the same latents, those of its replicas other requests'."""
    return {number: spans for of_worker in of_workers for number, spans in of_worker.items()}


def _with_latents(body: bytes, latents: dict[int, list[str]]) -> bytes:
    response = json.loads(body)
    for choice in response["choices"]:
        choice["latents"] = latents[choice["index"]]
    return json.dumps(response).encode()


class _Response:
    """A response that the application sends, kept back."""

    def __init__(self) -> None:
        self.status, self.body = 500, b""
        self.headers: list[tuple[bytes, bytes]] = []

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = [(name, value) for name, value in message["headers"] if name.lower() != b"content-length"]
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")


async def _read(receive: Receive) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """The request with this body, and then what else comes: that the client has gone."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed


async def _respond(send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = JSON) -> None:
    headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _error(message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "BadRequestError", "param": None, "code": 400}}).encode()
