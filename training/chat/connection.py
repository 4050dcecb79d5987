"""A connection to one server, which follows no redirect elsewhere and reads no more than a bound; and the preflight,
which checks in seconds, before any work, whether servers can be used."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
import openai

from training.chat.completion import one_line
from training.chat.endpoint import EndpointDownError, EndpointRefusesError, api_key, is_loopback
from training.engines.identity import CHECKPOINT_HEADER

CONNECT_SECONDS = 10.0
PREFLIGHT_PAUSE = 0.5  # seconds between tries to connect
PREFLIGHT_SECONDS = 5.0  # for one try, the list of models included
PREFLIGHT_TRIES = 3
MAX_BODY_BYTES = 2**24
"""Of one reply: a dozen long answers with their reasoning are a tenth of it."""


class UnusableReplyError(Exception):
    """A reply that is not read: too long, or encoded."""


class WrongServerError(UnusableReplyError):
    """A server that is not the right one: no further request goes there."""


@dataclass(frozen=True)
class ReplyRules:
    """What a reply must be: of at most so many bytes and, with `checkpoint`, from a server with our plug-in
    (training.engines.identity) that has the checkpoint of this hash."""

    max_bytes: int = MAX_BODY_BYTES
    checkpoint: str | None = None


ANY_SERVER = ReplyRules()


def connect(base_url: str, key: str, timeout: float, rules: ReplyRules = ANY_SERVER) -> openai.AsyncOpenAI:
    """A client of one server.  It does not retry: training.chat.client does, at the next server."""

    async def stay(request: httpx2.Request) -> None:
        if (to := _origin(request.url)) != at:
            raise WrongServerError(f"it redirects to {one_line(to)}, which is not followed: give that URL itself")

    async def bound(response: httpx2.Response) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise UnusableReplyError("an encoded reply, which the request excludes")
        if rules.checkpoint is not None and response.is_success:
            _check_checkpoint(response.headers.get(CHECKPOINT_HEADER), rules.checkpoint)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Bounded(response.stream, rules.max_bytes)

    at = _origin(httpx2.URL(base_url))
    # A proxy from the environment must not see, or break, requests that stay on this machine.
    trust_env = not is_loopback(base_url)
    return openai.AsyncOpenAI(
        base_url=base_url,
        api_key=key,
        timeout=openai.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
        max_retries=0,
        default_headers={"Accept-Encoding": "identity"},  # what is packed has no bound before it is unpacked
        http_client=openai.DefaultAsyncHttpxClient(
            trust_env=trust_env,
            verify=tls_settings(trust_env),
            event_hooks={"request": [stay], "response": [bound]},
        ),
    )


@cache
def tls_settings(trust_env: bool) -> ssl.SSLContext:
    """The TLS settings of all connections of this process: reading the authorities takes longer than many a request."""
    return httpx2.create_ssl_context(trust_env=trust_env)


def _check_checkpoint(served: str | None, wanted: str) -> None:
    if served is None:
        raise WrongServerError("it does not say which checkpoint it has, as a server that `future-l1 serve` started "
                               "does: without our plug-in latents are not fed back; or a proxy takes the header "
                               f"{CHECKPOINT_HEADER} away")  # fmt: skip
    if served != wanted:
        raise WrongServerError(f"it has another checkpoint (hash {one_line(served)}) than the one to answer with "
                               f"({wanted}): serve that one")  # fmt: skip


class _Bounded(httpx2.AsyncByteStream):
    """A reply's body up to a number of bytes."""

    def __init__(self, stream: httpx2.AsyncByteStream, max_bytes: int) -> None:
        self._stream, self._max_bytes = stream, max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > self._max_bytes:
                raise UnusableReplyError(f"a reply of more than {self._max_bytes >> 20} MiB")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


def _origin(url: httpx2.URL) -> str:
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def preflight(base_urls: Sequence[str], model: str, variables: Sequence[str], what: str) -> None:
    """Lists the models of every server.

    Raises EndpointRefusesError where a key is missing or refused or a server does not have the model, and
    EndpointDownError where none accepts a connection.  Anything else passes: not every server lists its models,
    and a passing fault is no reason not to start.
    """
    keys = [api_key(variables, url, what) for url in base_urls]

    async def closed() -> list[bool]:
        return await asyncio.gather(
            *(_is_closed(url, key, model, what) for url, key in zip(base_urls, keys, strict=True))
        )

    if all(asyncio.run(closed())):
        raise EndpointDownError(f"no connection to the {what} {model!r} at {', '.join(base_urls)}: is it running?")


def checkpoint_name(base_urls: Sequence[str], variables: Sequence[str], checkpoint: str) -> str:
    """The name by which all of the servers that answer serve the checkpoint of this hash.

    Raises EndpointRefusesError where a server has another checkpoint, none of ours, or no name in common with the
    others, and EndpointDownError where none answers.
    """
    keys = [api_key(variables, url, "endpoint") for url in base_urls]

    async def listed() -> list[list[dict[str, Any]] | None]:
        servers = zip(base_urls, keys, strict=True)
        return await asyncio.gather(*(_models(url, key, ReplyRules(checkpoint=checkpoint)) for url, key in servers))

    at = ", ".join(base_urls)
    by_server = [[model["id"] for model in models] for models in asyncio.run(listed()) if models is not None]
    if not by_server:
        raise EndpointDownError(f"no answer from the endpoint at {at}: does it run, and has it loaded its model?")
    for name in by_server[0]:
        if all(name in names for names in by_server):
            return name
    raise EndpointRefusesError(f"the servers at {at} have no name of the checkpoint in common: start them with one "
                               "`-- --served-model-name NAME`")  # fmt: skip


def served_folder(base_url: str, variables: Sequence[str]) -> Path:
    """The checkpoint's folder that a vLLM server on this machine has loaded.

    Raises EndpointRefusesError where it names none that is here, and EndpointDownError where it does not answer.
    """
    models = asyncio.run(_models(base_url, api_key(variables, base_url, "endpoint"), ANY_SERVER))
    if models is None:
        raise EndpointDownError(f"no answer from the endpoint at {base_url}: does it run, and has it loaded its model?")
    folder = Path(str(models[0].get("root"))) if models else Path()
    if not (folder / "config.json").is_file():
        raise EndpointRefusesError(f"the endpoint at {base_url} names no checkpoint's folder that is on this machine: "
                                   "give --checkpoint, too, a copy of the one that it serves")  # fmt: skip
    return folder


async def _models(base_url: str, key: str, rules: ReplyRules) -> list[dict[str, Any]] | None:
    """A server's models, with the names `id`, without adapters; None where it does not answer."""
    for attempt in range(PREFLIGHT_TRIES):
        if attempt:
            await asyncio.sleep(PREFLIGHT_PAUSE)
        try:
            models = await served_models(base_url, key, rules)
            return [model | {"id": str(model["id"])} for model in models if model.get("parent") is None]
        except (openai.APIConnectionError, openai.InternalServerError, TimeoutError):
            continue
        except (openai.APIError, UnusableReplyError) as error:
            reason = one_line(str(error), [key])
            raise EndpointRefusesError(f"the endpoint at {base_url} cannot be used: {reason}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise EndpointRefusesError(f"the endpoint at {base_url} does not list its models as vLLM does") from None
    return None


async def served_models(base_url: str, key: str, rules: ReplyRules = ANY_SERVER) -> list[dict[str, Any]]:
    """The models that a server lists: an object with `id` for each, with vLLM `root`, too.

    Raises openai's errors, UnusableReplyError, TimeoutError, and others for a list that is none.
    """
    async with asyncio.timeout(PREFLIGHT_SECONDS), connect(base_url, key, PREFLIGHT_SECONDS, rules) as server:
        return list(json.loads(await server.get("/models", cast_to=str))["data"])


async def _is_closed(base_url: str, key: str, model: str, what: str) -> bool:
    """Whether a server accepts no connection; raises EndpointRefusesError where it says that it cannot be used."""

    def refuses(reason: str) -> EndpointRefusesError:
        return EndpointRefusesError(f"the {what} {model!r} at {base_url} refuses: {reason}")

    for attempt in range(PREFLIGHT_TRIES):
        if attempt:
            await asyncio.sleep(PREFLIGHT_PAUSE)
        try:
            names = [model["id"] for model in await served_models(base_url, key)]
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise refuses(f"{one_line(error.message, [key])}; check its key") from None
        except openai.APIConnectionError as error:
            if type(error.__cause__).__name__ != "ConnectError":
                return False
        except WrongServerError as error:
            raise refuses(one_line(str(error), [key])) from None
        except (openai.APIError, UnusableReplyError, TimeoutError, ValueError, KeyError, TypeError, RecursionError):
            return False
        else:
            if names and not any(name in (model, f"{model}:latest", f"models/{model}") for name in names):
                raise refuses(f"it serves {one_line(', '.join(map(repr, names[:20])), [key])}; check its model name")
            return False
    return True
