"""OpenAI-compatible servers: keys, a check before any work, and many requests at a time that outlive faults.

What may pass (429, 5xx, time-outs, lost connections, bodies that are cut or no chat completion) is asked again, at the
next base URL where there are several, after growing pauses or as long as Retry-After says.  401, 403 and 404 end the
work at once; any other 4xx refuses one request.  As many failures in a row as requests may be in flight are an outage:
what is in flight ends, nothing more is sent.
"""

import asyncio
import ipaddress
import itertools
import json
import math
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

ENDPOINT_KEYS = ("FUTURE_L1_ENDPOINT_API_KEY", "OPENAI_API_KEY")
JUDGE_KEYS = ("FUTURE_L1_JUDGE_API_KEY", "OPENAI_API_KEY")

PAUSE = 0.5  # seconds before the second try, twice as long before each further one
LONGEST_PAUSE = 30.0
LONGEST_TOLD = 120.0  # seconds; a server that says to wait longer is not waited for
CONNECT_SECONDS = 10.0
PREFLIGHT_SECONDS = 5.0
PREFLIGHT_TRIES = 3
REFUSALS = 20  # so many requests refused, and none answered: it is not the requests

Item = TypeVar("Item")
Reply = TypeVar("Reply")
Kind = Literal["refused", "faulty", "unreachable"]


class EndpointRefusesError(ValueError):
    """A wrong URL, model name or key: the endpoint will never answer as it is configured."""


class EndpointDownError(RuntimeError):
    """The endpoint cannot be reached or fails all the time: start again later."""


class UnansweredError(Exception):
    """One request that stayed without an answer.

    `refused`: this request never gets one; `faulty`: the server answered it with errors or nonsense; `unreachable`: it
    had no chance.  `wait`: seconds until it may be tried again, where that is known.
    """

    def __init__(self, kind: Kind, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.wait = kind, reason, wait


class MalformedError(Exception):
    """A completion that is not what was asked for."""


class _EndedError(Exception):
    """The work as a whole is over; the pool knows why."""


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a base URL looks like http://HOST:PORT/v1")
    if parts.username or parts.password:
        raise ValueError("a base URL holds no user name or password: keys come from the environment")
    return url.rstrip("/")


BaseUrl = Annotated[str, AfterValidator(_checked_url)]


class EndpointSettings(BaseModel):
    """Where a model is served and how it is asked.  Its key comes from the environment only."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_urls: tuple[BaseUrl, ...] = Field(min_length=1)  # several servers of one model take turns
    model: str
    concurrency: int = Field(default=64, ge=1)
    timeout: float = Field(default=120.0, gt=0)  # seconds for one attempt
    retries: int = Field(default=5, ge=0)


def plain_text(text: str) -> str:
    """Text that every store takes: U+FFFD in place of NUL and of half a surrogate pair."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _plain(value: Any) -> Any:
    return plain_text(value) if isinstance(value, str) else value


class Message(BaseModel):
    content: Annotated[str | None, BeforeValidator(_plain)] = None


class Choice(BaseModel):
    message: Message
    finish_reason: str | None = None


class Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Completion(BaseModel):
    """What is read of a chat completion (openai's own type validates nothing); seconds: latency of this attempt."""

    choices: list[Choice] = Field(min_length=1)
    usage: Usage | None = None
    seconds: float = 0.0


def api_key(variables: Sequence[str], base_url: str, what: str) -> str:
    """The first of the environment variables that is set; a server on loopback needs none.

    Raises EndpointRefusesError that names the variables, never what they hold.
    """
    for variable in variables:
        key = os.environ.get(variable, "").strip()
        if key and not (key.isascii() and key.isprintable() and " " not in key):
            raise EndpointRefusesError(f"{variable} holds white space or characters that no key has: set it again")
        if key:
            return key
    if is_loopback(base_url):
        return "loopback"
    raise EndpointRefusesError(f"no key for the {what} at {base_url}: set {' or '.join(variables)} in the environment")


def is_loopback(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def client(base_url: str, key: str, timeout: float) -> "AsyncOpenAI":
    """One server's client.  It does not retry: the pool does, at the next server."""
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout

    return AsyncOpenAI(
        base_url=base_url,
        api_key=key,
        timeout=Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
        max_retries=0,
        # A proxy from the environment must not see, or break, requests that stay on this machine.
        http_client=DefaultAsyncHttpxClient(trust_env=not is_loopback(base_url)),
    )


def preflight(base_urls: Sequence[str], model: str, variables: Sequence[str], what: str) -> None:
    """Asks every server for its models, in seconds and before any work.

    Raises EndpointRefusesError where a key is missing or refused or a server does not have the model, and
    EndpointDownError where none accepts a connection.  Anything else says nothing: not every server lists its models,
    and a passing fault is no reason not to start.
    """
    keys = [api_key(variables, url, what) for url in base_urls]
    with ThreadPoolExecutor(len(base_urls)) as threads:
        closed = list(threads.map(lambda url, key: _closed(url, key, model, what), base_urls, keys))
    if all(closed):
        raise EndpointDownError(f"no connection to the {what} {model!r} at {', '.join(base_urls)}: is it running?")


def _closed(base_url: str, key: str, model: str, what: str) -> bool:
    """Whether a server accepts no connection; raises EndpointRefusesError where it says that it cannot be used."""
    import openai

    def refuses(found: str) -> EndpointRefusesError:
        return EndpointRefusesError(f"the {what} {model!r} at {base_url} refuses: {found}")

    http = openai.DefaultHttpxClient(trust_env=not is_loopback(base_url))
    with openai.OpenAI(
        base_url=base_url, api_key=key, timeout=PREFLIGHT_SECONDS, max_retries=0, http_client=http
    ) as asking:
        for attempt in range(PREFLIGHT_TRIES):
            if attempt:
                time.sleep(PAUSE)
            try:
                told = json.loads(asking.models.with_raw_response.list().content)
                served = [listed["id"] for listed in told["data"]]
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise refuses(f"{_without(error.message, [key])}; check its key") from None
            except openai.APIConnectionError as error:
                if type(error.__cause__).__name__ != "ConnectError":  # of httpx or httpx2, whichever openai uses
                    return False
            except (openai.APIError, ValueError, KeyError, TypeError, RecursionError):
                return False
            else:
                if served and not any(name in (model, f"{model}:latest", f"models/{model}") for name in served):
                    raise refuses(f"it serves {', '.join(map(repr, served[:20]))}; check its model name")
                return False
    return True


class Pool:
    """Runs work that asks one model, at most `concurrency` items at a time, over its servers in turn.

    `counts`: requests (sent), malformed, unreachable and refused ones among them, prompt and completion tokens.
    """

    def __init__(
        self, settings: EndpointSettings, variables: Sequence[str], what: str, counts: Counter[str] | None = None
    ) -> None:
        self.settings = settings
        self.counts: Counter[str] = Counter() if counts is None else counts
        self._who = f"the {what} {settings.model!r} at {', '.join(settings.base_urls)}"
        self._keys = [api_key(variables, url, what) for url in settings.base_urls]

    async def run(
        self, items: Sequence[Item], work: Callable[[Item], Awaitable[None]]
    ) -> list[tuple[Item, UnansweredError]]:
        """Does `work`, which calls `complete`, for every item; what failed is tried again at the end while that helps.

        Returns the items that stayed unanswered though the server is there.  Raises EndpointRefusesError, and
        EndpointDownError on an outage or for items that the server could not be reached for.
        """
        self._error: EndpointRefusesError | EndpointDownError | None = None
        self._ended = asyncio.Event()
        self._turn = itertools.count()
        self._refusals = self._completions = 0
        urls = zip(self.settings.base_urls, self._keys, strict=True)
        async with AsyncExitStack() as stack:
            self._clients = [
                await stack.enter_async_context(client(url, key, self.settings.timeout)) for url, key in urls
            ]
            left = await self._pass(items, work)
            tried = len(items) + 1  # what failed is tried again as long as that helps, and once in any case
            while (failed := [item for item, error in left if error.kind != "refused"]) and len(failed) < tried:
                tried = len(failed)
                left = [(item, error) for item, error in left if error.kind == "refused"]
                left += await self._pass(failed, work)
        lost = [e for _, e in left if e.kind == "unreachable" or (e.kind == "faulty" and not self._completions)]
        if lost:
            raise self._down(f"{len(lost)} requests, the last: {lost[-1].reason}")
        return left

    async def _pass(
        self, items: Sequence[Item], work: Callable[[Item], Awaitable[None]]
    ) -> list[tuple[Item, UnansweredError]]:
        queue, left = iter(items), []
        self._failed_in_a_row = 0  # what is tried again has failed before: that alone is no outage

        async def worker() -> None:
            for item in queue:
                if self._ended.is_set():
                    return
                try:
                    await work(item)
                except UnansweredError as error:
                    left.append((item, error))
                except _EndedError:
                    return

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.settings.concurrency, len(items))):
                group.create_task(worker())
        if self._error:
            raise self._error
        return left

    async def complete(self, body: Callable[[int], Mapping[str, Any]], accept: Callable[[Completion], Reply]) -> Reply:
        """What `accept` makes of a completion; it raises MalformedError for one that is to be asked for again.

        `body` is the request without its model, given how many completions were not accepted.  Raises UnansweredError
        after `retries` more tries.
        """
        first, malformed = next(self._turn), 0
        failure = UnansweredError("unreachable", "not asked")
        for attempt in range(self.settings.retries + 1):
            if attempt:
                await self._pause(attempt, failure.wait)
            if self._ended.is_set():
                raise _EndedError
            try:
                return accept(await self._send((first + attempt) % len(self._clients), body(malformed)))
            except MalformedError as error:
                malformed += 1
                self.counts["malformed"] += 1
                failure = UnansweredError("faulty", str(error), wait=0.0)
            except UnansweredError as error:
                failure = error
            if failure.kind == "refused" or (failure.wait or 0.0) > LONGEST_TOLD:
                break
        if failure.kind != "refused":
            self._failed_in_a_row += 1  # each completion resets it, so completions that are not accepted never add up
            if self._failed_in_a_row >= max(3, self.settings.concurrency):
                self._end(self._down(failure.reason))
        raise failure

    async def _send(self, number: int, body: Mapping[str, Any]) -> Completion:
        import openai

        where, started = self.settings.base_urls[number], time.perf_counter()
        self.counts["requests"] += 1
        try:
            # not chat.completions.create: that checks and copies a request at the cost of half of all work here
            told = await self._clients[number].post(
                "/chat/completions", body={"model": self.settings.model, **body}, cast_to=str
            )
        except openai.APIStatusError as error:
            raise self._meaning(error) from None
        except openai.APIConnectionError as error:
            self.counts["unreachable"] += 1
            cause = type(error.__cause__).__name__
            raise UnansweredError("unreachable", f"{where}: {error.message} ({cause})") from None
        try:
            completion = Completion.model_validate(json.loads(told))
        except (ValueError, RecursionError):
            self.counts["malformed"] += 1
            raise UnansweredError("faulty", f"{where}: not a chat completion") from None
        self._failed_in_a_row = 0
        self._completions += 1
        if completion.usage:
            self.counts["prompt_tokens"] += completion.usage.prompt_tokens or 0
            self.counts["completion_tokens"] += completion.usage.completion_tokens or 0
        return completion.model_copy(update={"seconds": time.perf_counter() - started})

    def _meaning(self, error: "APIStatusError") -> UnansweredError | _EndedError:
        told = _without(error.message, self._keys)
        if error.status_code in (401, 403, 404):
            return self._end(self._refuses(told))
        if error.status_code in (408, 409, 425, 429) or error.status_code >= 500:
            self.counts["unreachable"] += 1
            kind: Kind = "faulty" if error.status_code == 500 else "unreachable"
            return UnansweredError(kind, told, _retry_after(error.response.headers))
        self.counts["refused"] += 1
        self._refusals += 1
        if self._refusals >= REFUSALS and not self._completions:
            return self._end(self._refuses(told))
        return UnansweredError("refused", told)

    def _end(self, error: EndpointRefusesError | EndpointDownError) -> _EndedError:
        self._error = self._error or error
        self._ended.set()
        return _EndedError()

    def _refuses(self, told: str) -> EndpointRefusesError:
        return EndpointRefusesError(f"{self._who} refuses every request ({told}); check its URL, model name and key")

    def _down(self, told: str) -> EndpointDownError:
        return EndpointDownError(
            f"{self._who} does not answer ({told}); what it answered is kept: start again when it is back"
        )

    async def _pause(self, attempt: int, told: float | None) -> None:
        """Until the next attempt or the end of everything; jitter keeps the workers from coming back in step."""
        seconds = min(PAUSE * 2 ** (attempt - 1), LONGEST_PAUSE) * random.uniform(0.5, 1.0)
        if told is not None:
            seconds = told * random.uniform(1.0, 1.25)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), seconds)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server says to wait, as milliseconds, seconds or a date; None where it says nothing usable."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with suppress(ValueError):
            seconds = float(headers.get(name, "")) * unit
            return seconds if math.isfinite(seconds) and seconds >= 0 else None
    with suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    return None


def _without(message: str, keys: Sequence[str]) -> str:
    """One short line of what a server says, which may repeat the key that it was sent."""
    for key in keys:
        message = message.replace(key, "[key]") if key != "loopback" else message
    line = " ".join(message.split())
    return line if len(line) <= 300 else line[:300] + " ..."
