"""OpenAI-compatible servers: their settings and keys, and the errors where they cannot be used."""

import ipaddress
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from training.runtime.errors import OutageError, PermanentError

ENDPOINT_KEYS = ("FUTURE_L1_ENDPOINT_API_KEY", "OPENAI_API_KEY")
JUDGE_KEYS = ("FUTURE_L1_JUDGE_API_KEY", "OPENAI_API_KEY")


class EndpointRefusesError(PermanentError):
    """The endpoint will not answer as it is: a wrong URL, model name or key, no credit, or replies without use."""


class EndpointDownError(OutageError):
    """The endpoint cannot be reached or fails all the time: start again later."""


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a base URL looks like http://HOST:PORT/v1")
    if parts.username or parts.password:
        raise ValueError("a base URL holds no user name or password: keys come from the environment")
    return url.rstrip("/")


BaseUrl = Annotated[str, AfterValidator(_checked_url)]


class ServerSettings(BaseModel):
    """The servers of a model, and limits of requests.  Their key comes from the environment only."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_urls: tuple[BaseUrl, ...] = Field(min_length=1)
    """The servers of one model, which take turns."""
    concurrency: int = Field(default=64, ge=1)
    """Requests in flight."""
    timeout: float = Field(default=600.0, gt=0)
    """Seconds for one attempt, the whole reply included."""
    retries: int = Field(default=5, ge=0)
    """Further attempts of a request."""


class EndpointSettings(ServerSettings):
    """The servers of a model that is known by its name alone."""

    model: str
    """The name by which they serve it."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds for one attempt, the whole reply included."""
    image_factor: int | None = Field(default=None, ge=1)
    """Pixels a side of one of the model's merged vision tokens, its processor's patch_size x merge_size (32 for
    Qwen3-VL, 28 for Qwen2.5-VL); None: as evaluation.generation.image_factor finds it."""


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
    """Whether a URL's host is this machine."""
    host = urlsplit(base_url).hostname or ""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
