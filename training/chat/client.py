"""One server's client: it follows no redirect elsewhere, reads no more than a bound, and tells no key."""

from collections.abc import AsyncIterator

import httpx2
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout

from training.chat.completion import one_line
from training.chat.endpoint import is_loopback

CONNECT_SECONDS = 10.0
MAX_BODY_BYTES = 2**24
"""Of one reply: a dozen long answers with their reasoning are a tenth of it."""


class UnusableReplyError(Exception):
    """A reply that is not read: too long, or encoded."""


class RedirectedError(UnusableReplyError):
    """A redirect to another server, which gets neither key nor request."""


def client(base_url: str, key: str, timeout: float) -> AsyncOpenAI:
    """One server's client.  It does not retry: the pool does, at the next server."""

    async def stay(request: httpx2.Request) -> None:
        if (to := _origin(request.url)) != at:
            raise RedirectedError(f"it redirects to {one_line(to)}, which is not followed: give that URL itself")

    async def bound(response: httpx2.Response) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise UnusableReplyError("an encoded reply, though none was asked for")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Bounded(response.stream)

    at = _origin(httpx2.URL(base_url))
    return AsyncOpenAI(
        base_url=base_url,
        api_key=key,
        timeout=Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
        max_retries=0,
        default_headers={"Accept-Encoding": "identity"},  # what is packed has no bound before it is unpacked
        # A proxy from the environment must not see, or break, requests that stay on this machine.
        http_client=DefaultAsyncHttpxClient(
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
