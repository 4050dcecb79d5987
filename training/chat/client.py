"""The chat client: many requests at a time to the servers of one model, with retries and an end at an outage.

Temporary faults (429, 5xx, time-outs, lost connections, bodies that are cut or no chat completion) are sent again, at
the next base URL where there are several, after growing pauses or as long as Retry-After says.  401, 402, 403, 404 and
an account in arrears end the work at once; any other 4xx refuses one request.  As many failures in a row as requests
may be in flight are an outage: what is in flight ends, nothing more is sent.

A server that refuses, or sends useless replies to, several requests in a row is sent a request that was answered
before.  If it answers that, the requests are to blame, and the work goes on; if not, the server is, and the work ends.
Before the first answer the client waits, at most `timeout`, for the other requests: refusals come back the fastest.
"""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, NamedTuple, TypeVar

from training.chat.completion import ChatCompletion, MalformedError
from training.chat.connection import ANY_SERVER, ReplyRules
from training.chat.endpoint import EndpointDownError, EndpointRefusesError, EndpointSettings, api_key
from training.chat.server import GOES_ON, ChatServer, UnansweredError

PAUSE = 0.5  # seconds before the second try, twice as long before each further one
LONGEST_PAUSE = 30.0
LONGEST_WAIT = 120.0  # seconds; a longer Retry-After is a failure
MAX_REFUSED = 20
"""Requests refused in a row (or as many as may be in flight) before the server is checked."""
MAX_MALFORMED = 5
"""Requests in a row whose first reply is malformed before the server is checked."""
MIN_REFUSED = 3
"""Fewest refused requests that blame a server which never answered: fewer may be at fault themselves."""
HEALTH_CHECK_TRIES = 3

Item = TypeVar("Item")
Reply = TypeVar("Reply")
Body = Callable[[int], Mapping[str, Any]]


class ChatRequest(NamedTuple):
    """A request: its body, and the function that reads its reply, as `ChatClient.complete` takes them."""

    body: Body
    accept: Callable[[ChatCompletion], Any]


class ChatClient:
    """Runs work that needs one model, at most `concurrency` items at a time, over its servers in turn.

    `counts`: requests (sent), malformed, unreachable and refused ones among them, prompt and completion tokens.
    `health_check`: a request that was answered earlier; without one, the first that is answered becomes it.
    """

    def __init__(
        self,
        settings: EndpointSettings,
        variables: Sequence[str],
        what: str,
        counts: Counter[str] | None = None,
        health_check: ChatRequest | None = None,
        rules: ReplyRules = ANY_SERVER,
    ) -> None:
        self.settings = settings
        self.counts: Counter[str] = Counter() if counts is None else counts
        self._health_check = health_check
        self.who = f"the {what} {settings.model!r} at {', '.join(settings.base_urls)}"
        self._servers = [
            ChatServer(settings, url, api_key(variables, url, what), what, self.counts, rules)
            for url in settings.base_urls
        ]

    async def run(
        self, items: Sequence[Item], work: Callable[[Item], Awaitable[None]]
    ) -> list[tuple[Item, UnansweredError]]:
        """Does `work`, which calls `complete`, for every item; failed items are retried at the end while that helps.

        Returns the items that stayed unanswered though the server is there.  Raises EndpointRefusesError, and
        EndpointDownError on an outage or for items that the server could not be reached for.
        """
        self._error: EndpointRefusesError | EndpointDownError | None = None
        self._ended = asyncio.Event()
        self._turn = itertools.count()
        self._completions = 0
        self._useless = [0] * len(self._servers)  # requests in a row that each refused or replied nonsense to
        self._checking = asyncio.Lock()
        self._begun: set[int] = set()  # requests that may still show that a server can be used
        self._settled = asyncio.Event()  # one of them has, or cannot any more
        self._refusal: UnansweredError | None = None  # the last
        before = self.counts["refused"]
        async with AsyncExitStack() as stack:
            for server in self._servers:
                await stack.enter_async_context(server)
            left = await self._pass(items, work)
            before_retry = len(items) + 1  # what failed is sent again as long as that helps, and once in any case
            while (failed := [item for item, error in left if error.kind != "refused"]) and len(failed) < before_retry:
                before_retry = len(failed)
                left = [(item, error) for item, error in left if error.kind == "refused"]
                left += await self._pass(failed, work)
            if self._refusal and (self._health_check or self.counts["refused"] - before >= MIN_REFUSED):
                await self._check_last_refusals(self._refusal)
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
                except EndedError:
                    return

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.settings.concurrency, len(items))):
                group.create_task(worker())
        if self._error:
            raise self._error
        return left

    async def complete(self, body: Body, accept: Callable[[ChatCompletion], Reply]) -> Reply:
        """The reply that `accept` reads from a completion; where it raises MalformedError, the request is sent again.

        `body` is the request without its model, given how many completions were not accepted.  Raises UnansweredError
        after `retries` more tries.
        """
        turn = next(self._turn)
        self._begun.add(turn)
        try:
            return await self._complete(turn, body, accept)
        finally:
            self._settle(turn)

    async def _complete(self, turn: int, body: Body, accept: Callable[[ChatCompletion], Reply]) -> Reply:
        malformed = 0
        failure = UnansweredError("unreachable", "not sent")
        for attempt in range(self.settings.retries + 1):
            if attempt:
                await self._pause(attempt, failure.wait)
            if self._ended.is_set():
                raise EndedError
            number = (turn + attempt) % len(self._servers)
            try:
                reply = accept(await self._send(number, body(malformed)))
            except MalformedError as error:
                malformed += 1
                self.counts["malformed"] += 1
                failure = UnansweredError("malformed", str(error), wait=0.0)
                if malformed == 1:
                    await self._count_useless(turn, number, failure, MAX_MALFORMED)
            except UnansweredError as error:
                failure = error
            else:
                self._useless[number] = 0
                self._health_check = self._health_check or ChatRequest(body, accept)
                return reply
            if failure.kind == "refused" or (failure.wait or 0.0) > LONGEST_WAIT:
                break
        if failure.kind == "refused":
            self.counts["refused"] += 1
            self._refusal = failure
            await self._count_useless(turn, number, failure, max(MAX_REFUSED, self.settings.concurrency))
        elif failure.kind != "malformed":  # after a completion the server is there
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= max(3, self.settings.concurrency):
                self.end(self._down(failure.reason))
        raise failure

    async def _send(self, number: int, body: Mapping[str, Any]) -> ChatCompletion:
        try:
            completion = await self._servers[number].send(body)
        except EndpointRefusesError as error:
            raise self.end(error) from None
        self._failed_in_a_row = 0
        self._completions += 1
        return completion

    def _settle(self, turn: int) -> None:
        """No check waits any longer for this request to show that a server can be used."""
        self._begun.discard(turn)
        self._settled.set()

    async def _count_useless(self, turn: int, number: int, failure: UnansweredError, most: int) -> None:
        self._useless[number] += 1
        if self._useless[number] >= most:
            self._settle(turn)
            async with self._checking:
                if self._useless[number] >= most:
                    await self._check(number, failure)

    async def _check(self, number: int, failure: UnansweredError) -> None:
        """Ends the work if the server does not answer what was answered before, or never answered anything."""
        server = self._servers[number]
        with suppress(TimeoutError):
            async with asyncio.timeout(self.settings.timeout):
                while self._begun and self._health_check is None and not self._ended.is_set():
                    self._settled.clear()
                    await self._settled.wait()
        if self._ended.is_set() or not self._useless[number]:
            return
        for attempt in range(HEALTH_CHECK_TRIES):
            if self._health_check is None:
                break
            try:
                self._health_check.accept(await self._send(number, self._health_check.body(attempt)))
            except MalformedError as error:
                failure = UnansweredError("malformed", str(error))
            except UnansweredError as error:
                if error.kind == "refused":
                    self.end(self._down(f"it refuses what it answered before: {error.reason}"))
                return  # or it may pass: the other requests will show
            else:
                self._useless[number] = 0
                return
        unreadable = f"{server.who} gives replies that are of no use: {failure.reason}; {GOES_ON}"
        self.end(server.refuses(failure.reason) if failure.kind == "refused" else EndpointRefusesError(unreadable))

    async def _check_last_refusals(self, refusal: UnansweredError) -> None:
        """Checks the servers that refused last: without another answer, they may refuse all requests."""
        with suppress(EndedError):
            for number, useless in enumerate(self._useless):
                if useless:
                    await self._check(number, refusal)
        if self._error:
            raise self._error

    def end(self, error: EndpointRefusesError | EndpointDownError) -> "EndedError":
        """Ends the work with this error, unless it has ended; what is in flight may still be answered."""
        self._error = self._error or error
        self._ended.set()
        return EndedError()

    def _down(self, reason: str) -> EndpointDownError:
        return EndpointDownError(
            f"{self.who} does not answer ({reason}); what it answered is kept: start again when it is back"
        )

    async def _pause(self, attempt: int, wait: float | None) -> None:
        """Until the next attempt or the end of everything; jitter keeps the workers from coming back in step."""
        seconds = min(PAUSE * 2 ** (attempt - 1), LONGEST_PAUSE) * random.uniform(0.5, 1.0)
        if wait is not None:
            seconds = wait * random.uniform(1.0, 1.25)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), seconds)


class EndedError(Exception):
    """The work as a whole is over; the client has the reason."""
