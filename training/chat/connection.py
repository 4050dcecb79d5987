"""A connection to one server, which follows no redirect elsewhere and reads no more than a bound; and the preflight,
which checks in seconds, before any work, whether servers can be used."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx2
import openai

from training.chat.completion import one_line
from training.chat.endpoint import EndpointDownError, EndpointRefusesError, api_key, is_loopback

CONNECT_SECONDS = 10.0
PREFLIGHT_PAUSE = 0.5  # seconds between tries to connect
PREFLIGHT_SECONDS = 5.0  # for one try, the list of models included
PREFLIGHT_TRIES = 3
MAX_BODY_BYTES = 2**24
"""Of one reply: a dozen long answers with their reasoning are a tenth of it."""


class UnusableReplyError(Exception):
    """A reply that is not read: too long, or encoded."""


class RedirectedError(UnusableReplyError):
    """A redirect to another server, which gets neither key nor request."""


def connect(base_url: str, key: str, timeout: float) -> openai.AsyncOpenAI:
    """A client of one server.  It does not retry: training.chat.client does, at the next server."""

    async def stay(request: httpx2.Request) -> None:
        if (to := _origin(request.url)) != at:
            raise RedirectedError(f"it redirects to {one_line(to)}, which is not followed: give that URL itself")

    async def bound(response: httpx2.Response) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise UnusableReplyError("an encoded reply, which the request excludes")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Bounded(response.stream)

    at = _origin(httpx2.URL(base_url))
    return openai.AsyncOpenAI(
        base_url=base_url,
        api_key=key,
        timeout=openai.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
        max_retries=0,
        default_headers={"Accept-Encoding": "identity"},  # what is packed has no bound before it is unpacked
        # A proxy from the environment must not see, or break, requests that stay on this machine.
        http_client=openai.DefaultAsyncHttpxClient(
            trust_env=not is_loopback(base_url), event_hooks={"request": [stay], "response": [bound]}
        ),
    )


class _Bounded(httpx2.AsyncByteStream):
    """A reply's body up to MAX_BODY_BYTES."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise UnusableReplyError(f"a reply of more than {MAX_BODY_BYTES >> 20} MiB")
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


async def served_models(base_url: str, key: str) -> list[dict[str, Any]]:
    """The models that a server lists: an object with `id` for each, with vLLM `root`, too.

    Raises openai's errors, UnusableReplyError, TimeoutError, and others for a list that is none.
    """
    async with asyncio.timeout(PREFLIGHT_SECONDS), connect(base_url, key, PREFLIGHT_SECONDS) as server:
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
        except RedirectedError as error:
            raise refuses(one_line(str(error), [key])) from None
        except (openai.APIError, UnusableReplyError, TimeoutError, ValueError, KeyError, TypeError, RecursionError):
            return False
        else:
            if names and not any(name in (model, f"{model}:latest", f"models/{model}") for name in names):
                raise refuses(f"it serves {one_line(', '.join(map(repr, names[:20])), [key])}; check its model name")
            return False
    return True
