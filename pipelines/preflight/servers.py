"""The endpoints and the judge: whether each server answers, with a key that it takes, and has the model."""

import asyncio
from collections.abc import Iterator, Sequence

from assets.framework.store import AssetStore
from pipelines.profile import Profile
from training.chat.endpoint import ENDPOINT_KEYS, JUDGE_KEYS, EndpointDownError, EndpointRefusesError, api_key
from training.storage.artifacts import MODEL
from training.storage.hashing import model_digest


def endpoint_problems(profile: Profile) -> Iterator[str]:
    if endpoint := profile.curation.endpoint:
        for url in endpoint.base_urls:
            yield from _server_problems(url, endpoint.model, ENDPOINT_KEYS, "endpoint")


def served_checkpoint_problems(profile: Profile) -> Iterator[str]:
    """Whether the servers of generation.endpoint answer, have our plug-in, and have the checkpoints that are current.

    A checkpoint that is not made yet cannot be served: its servers are not looked for.
    """
    from training.chat.connection import checkpoint_name

    store = AssetStore(profile.home)
    for model, servers in profile.generation.endpoint.items():
        name, partition = profile.checkpoints.artifact(model)
        if store.has(name, partition):
            checkpoint = model_digest(store.current(name, partition).folder(MODEL))
            for url in servers.base_urls:
                try:
                    checkpoint_name((url,), ENDPOINT_KEYS, checkpoint)
                except (EndpointRefusesError, EndpointDownError) as error:
                    yield f"{model}: {error}"


def judge_problems(profile: Profile) -> Iterator[str]:
    if profile.judge and not profile.toy_judge:
        yield from _server_problems(profile.judge.base_url, profile.judge.model, JUDGE_KEYS, "judge")


def _server_problems(url: str, model: str, variables: Sequence[str], what: str) -> Iterator[str]:
    """The preflight's problem, or that the server sends nothing, which a run would wait for."""
    import openai

    from training.chat.connection import PREFLIGHT_SECONDS, preflight, served_models

    try:
        preflight((url,), model, variables, what)
    except (EndpointRefusesError, EndpointDownError) as error:
        yield str(error)
        return
    try:
        asyncio.run(served_models(url, api_key(variables, url, what)))
    except (openai.APIConnectionError, TimeoutError):
        yield (f"the {what} {model!r} at {url} sends no answer within {PREFLIGHT_SECONDS:g} s: is it still loading its "
               "model, and can it be reached from here?")  # fmt: skip
    except openai.InternalServerError as error:
        yield f"the {what} {model!r} at {url} answers with status {error.status_code}: look at its log"
    except Exception:  # it answers, and does not list its models
        return
