"""One chat server: requests in its dialect, and what its replies and refusals mean.

Servers do not agree on how a request says how long a reply may be, and that it is to be JSON.  A server first gets the
most usual form.  Where it refuses that by name, the next form is sent in its place, and to this server from then on.
"""

import asyncio
import json
import logging
import math
import re
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import httpx2
import openai

from training.chat.completion import ChatCompletion, one_line
from training.chat.connection import ANY_SERVER, ReplyRules, UnusableReplyError, WrongServerError, connect
from training.chat.endpoint import EndpointRefusesError, EndpointSettings
from training.engines.identity import PLUGIN_HEADER

GOES_ON = "what it answered is kept, and the same command goes on from there"

_ARREARS = re.compile(
    r"arrear|insufficient[_ ]?(?:user[_ ]?)?(?:quota|balance|credit|fund)|billing|current[_ ]?quota|deactivated",
    re.IGNORECASE,
)
"""In the code or the type of an error, which no row has a say in, as it may in the message."""
_FORMAT = re.compile(r"response.?format|json.?schema|json.?object|structured.?output|guided|grammar", re.IGNORECASE)
_TEMPERATURE = re.compile(
    r"temperature\W+(?:is |does )?(?:not support|unsupported)|unsupported \w+\W+temperature", re.IGNORECASE
)
_DIALECTS: dict[tuple[str, str], "Dialect"] = {}
"""By base URL and model, for as long as this process lives."""
_LOG = logging.getLogger(__name__)

Kind = Literal["refused", "malformed", "faulty", "unreachable"]


class UnansweredError(Exception):
    """One request that stayed without an answer.

    `refused`: this request never gets one; `malformed`: its completions could not be read; `faulty`: the server sent
    errors, or what is no completion; `unreachable`: it had no chance.  `wait`: seconds until it may be tried again,
    where that is known.
    """

    def __init__(self, kind: Kind, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.wait = kind, reason, wait


@dataclass(frozen=True)
class Dialect:
    """One server's form of a request; `temperature`: whether a judge's is sent."""

    length: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    format: Literal["json_schema", "json_object", "none"] = "json_schema"
    temperature: bool = True

    def body(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A request with `max_tokens`, and a judge's with `response_format`, in this form."""
        body = dict(request)
        if "max_tokens" in body:
            body[self.length] = body.pop("max_tokens")
        if "response_format" in body:
            if self.format != "json_schema":
                body["response_format"] = {"type": "json_object"}
            if self.format == "none":
                del body["response_format"]
            if not self.temperature:
                body.pop("temperature", None)
        return body

    def after(self, refusal: str, request: Mapping[str, Any]) -> "Dialect | None":
        """The form to try when the server refuses the request in this one with these words; None: it is not the form.

        Only a server that names `max_completion_tokens` gets it: others pass over what they do not know, and would
        write without end.  How answers are sampled is never changed.
        """
        if self.length == "max_tokens" and "max_completion_tokens" in refusal:
            return replace(self, length="max_completion_tokens")
        if "response_format" not in request:
            return None
        if self.format != "none" and _FORMAT.search(refusal):
            return replace(self, format="json_object" if self.format == "json_schema" else "none")
        if self.temperature and _TEMPERATURE.search(refusal):
            return replace(self, temperature=False)
        return None

    def __str__(self) -> str:
        return f"{self.length}, {self.format.replace('none', 'no response_format')}" + (
            "" if self.temperature else ", no temperature"
        )


class ChatServer:
    """Sends requests to one base URL; use it as a context.  `counts` as `training.chat.client.ChatClient` has them."""

    def __init__(
        self,
        settings: EndpointSettings,
        base_url: str,
        key: str,
        what: str,
        counts: Counter[str],
        rules: ReplyRules = ANY_SERVER,
    ) -> None:
        self._settings, self._url, self._key, self._counts, self._rules = settings, base_url, key, counts, rules
        self.who = f"the {what} {settings.model!r} at {base_url}"

    async def __aenter__(self) -> "ChatServer":
        self._client = await connect(self._url, self._key, self._settings.timeout, self._rules).__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._client.__aexit__(*error)

    async def send(self, request: Mapping[str, Any]) -> ChatCompletion:
        """The completion of a request without its model, in the form that this server takes.

        Raises UnansweredError, and EndpointRefusesError where no request will be answered.
        """
        place = (self._url, self._settings.model)
        while True:
            dialect = _DIALECTS.get(place, Dialect())
            try:
                return await self._post(dialect.body(request))
            except UnansweredError as error:
                other = dialect.after(error.reason, request) if error.kind == "refused" else None
                if other is None:
                    raise
                if _DIALECTS.get(place, Dialect()) == dialect:
                    _DIALECTS[place] = other
                    _LOG.warning("%s gets requests with %s from now on: %s", self.who, other, error.reason)

    async def _post(self, body: Mapping[str, Any]) -> ChatCompletion:
        started = time.perf_counter()
        self._counts["requests"] += 1
        try:
            async with asyncio.timeout(self._settings.timeout):
                # not chat.completions.create: that checks and copies a request at the cost of half of all work here
                response = await self._client.post(
                    "/chat/completions", body={"model": self._settings.model, **body}, cast_to=httpx2.Response
                )
                text = response.text
        except openai.APIStatusError as error:
            raise self._meaning(error) from None
        except TimeoutError:
            self._counts["unreachable"] += 1
            reason = f"{self._url}: no whole reply in {self._settings.timeout:g} s"
            raise UnansweredError("unreachable", reason) from None
        except openai.APIConnectionError as error:
            self._counts["unreachable"] += 1
            cause = type(error.__cause__).__name__
            raise UnansweredError("unreachable", f"{self._url}: {error.message} ({cause})") from None
        except WrongServerError as error:
            raise EndpointRefusesError(f"{self.who} cannot be used: {error}") from None
        except UnusableReplyError as error:
            raise self._no_completion(str(error)) from None
        try:
            completion = ChatCompletion.model_validate(json.loads(text))
        except (ValueError, RecursionError):
            raise self._no_completion(f"not a chat completion but {one_line(text, [self._key])!r}") from None
        if completion.usage:
            self._counts["prompt_tokens"] += completion.usage.prompt_tokens or 0
            self._counts["completion_tokens"] += completion.usage.completion_tokens or 0
        plugin = response.headers.get(PLUGIN_HEADER)
        return completion.model_copy(update={"plugin": plugin, "seconds": time.perf_counter() - started})

    def _no_completion(self, reason: str) -> UnansweredError:
        self._counts["malformed"] += 1
        return UnansweredError("faulty", f"{self._url}: {reason}")

    def _meaning(self, error: openai.APIStatusError) -> UnansweredError | EndpointRefusesError:
        status, bare = error.status_code, " - " not in error.message
        message = one_line(f"{error.message} {error.response.text}" if bare else error.message, [self._key])
        if status == 402 or (status < 500 and _ARREARS.search(f"{error.code} {error.type}")):
            return EndpointRefusesError(f"{self.who} wants its account filled up ({message}); {GOES_ON}")
        if status in (401, 403, 404):
            return self.refuses(message)
        if status in (408, 409, 425, 429) or status >= 500:
            self._counts["unreachable"] += 1
            kind: Kind = "faulty" if status == 500 else "unreachable"
            return UnansweredError(kind, message, retry_after(error.response.headers))
        return UnansweredError("refused", message)

    def refuses(self, reason: str) -> EndpointRefusesError:
        """The error where all requests are refused for this reason."""
        return EndpointRefusesError(f"{self.who} refuses every request ({reason}); check its URL, model name and key")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server says to wait, as milliseconds, seconds or a date; None where it says nothing usable."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with suppress(ValueError):
            seconds = float(headers.get(name, "")) * unit
            return seconds if math.isfinite(seconds) and seconds >= 0 else None
    with suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    return None
