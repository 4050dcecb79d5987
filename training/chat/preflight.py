"""Whether servers can be used, asked in seconds and before any work."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from training.chat.completion import one_line
from training.chat.endpoint import EndpointDownError, EndpointRefusesError, api_key

PAUSE = 0.5
SECONDS = 5.0
TRIES = 3


def preflight(base_urls: Sequence[str], model: str, variables: Sequence[str], what: str) -> None:
    """Asks every server for its models.

    Raises EndpointRefusesError where a key is missing or refused or a server does not have the model, and
    EndpointDownError where none accepts a connection.  Anything else says nothing: not every server lists its models,
    and a passing fault is no reason not to start.
    """
    keys = [api_key(variables, url, what) for url in base_urls]

    async def closed() -> list[bool]:
        return await asyncio.gather(*(_closed(url, key, model, what) for url, key in zip(base_urls, keys, strict=True)))

    if all(asyncio.run(closed())):
        raise EndpointDownError(f"no connection to the {what} {model!r} at {', '.join(base_urls)}: is it running?")


async def served_models(base_url: str, key: str) -> list[dict[str, Any]]:
    """What a server lists, as it says it: an object with `id` for each model, with vLLM `root`, too.

    Raises openai's errors, UnusableReplyError, TimeoutError, and others for a list that is none.
    """
    from training.chat.client import client

    async with asyncio.timeout(SECONDS), client(base_url, key, SECONDS) as server:
        return list(json.loads(await server.get("/models", cast_to=str))["data"])


async def _closed(base_url: str, key: str, model: str, what: str) -> bool:
    """Whether a server accepts no connection; raises EndpointRefusesError where it says that it cannot be used."""
    import openai

    from training.chat.client import RedirectedError, UnusableReplyError

    def refuses(found: str) -> EndpointRefusesError:
        return EndpointRefusesError(f"the {what} {model!r} at {base_url} refuses: {found}")

    for attempt in range(TRIES):
        if attempt:
            await asyncio.sleep(PAUSE)
        try:
            names = [model["id"] for model in await served_models(base_url, key)]
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise refuses(f"{one_line(error.message, [key])}; check its key") from None
        except openai.APIConnectionError as error:
            if type(error.__cause__).__name__ != "ConnectError":
                return False
        except RedirectedError as error:
            raise refuses(str(error)) from None
        except (openai.APIError, UnusableReplyError, TimeoutError, ValueError, KeyError, TypeError, RecursionError):
            return False
        else:
            if names and not any(name in (model, f"{model}:latest", f"models/{model}") for name in names):
                raise refuses(f"it serves {one_line(', '.join(map(repr, names[:20])))}; check its model name")
            return False
    return True
