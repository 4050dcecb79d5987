"""What servers do not agree on: how a request says how long a reply may be, and that it is to be JSON.

A server is asked in the most usual form.  Where it refuses that by name, the next form is sent in its place, and to
this server from then on.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

_FORMAT = re.compile(r"response.?format|json.?schema|json.?object|structured.?output|guided|grammar", re.IGNORECASE)
_TEMPERATURE = re.compile(
    r"temperature\W+(?:is |does )?(?:not support|unsupported)|unsupported \w+\W+temperature", re.IGNORECASE
)


@dataclass(frozen=True)
class Dialect:
    """One server's form of a request; `temperature`: whether a judge's is sent."""

    length: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    format: Literal["json_schema", "json_object", "none"] = "json_schema"
    temperature: bool = True

    def body(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A request that has `max_tokens`, and `response_format` where it asks a judge, in this form."""
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
