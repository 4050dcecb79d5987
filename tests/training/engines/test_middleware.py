"""Latents come back with the answers that asked for them, and prompts with latents go no further; the application is
ours, not vLLM's."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from training.engines.middleware import CHAT, RETURN, LatentMiddleware
from training.engines.options import PREFIX, encode_span

LATENT_ID, WIDTH = 7, 2
CONFIG = SimpleNamespace(latent_id=LATENT_ID, text_config=SimpleNamespace(hidden_size=WIDTH))
MESSAGES = [{"role": "user", "content": [{"type": "text", "text": "Which colour?"}]}]


class Served:
    """vLLM's application and engine: answers that say how they were asked, and latents by key."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.taken: list[str] = []
        self.status = 200
        self.model_config = SimpleNamespace(hf_config=CONFIG)

    async def collective_rpc(self, method: str, args: tuple[str]) -> list[dict[int, list[str]]]:
        assert method == "take_latents"
        self.taken += args
        return [{0: ["zero"]}, {1: ["one", ""]}]

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        self.requests.append(json.loads(body) if body.startswith(b"{") else body)
        choices = [{"index": index} for index in range(2)]
        reply = json.dumps({"choices": choices} if self.status == 200 else {"error": "full"}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(reply)).encode())]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply[:3], "more_body": True})
        await send({"type": "http.response.body", "body": reply[3:]})

    def post(self, body: bytes | dict[str, Any], method: str = "POST", path: str = CHAT) -> tuple[int, Any]:
        """Status and body of the response, whose length must be the one that its headers say."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        parts = [{"body": content[:5], "more_body": True}, {"body": content[5:], "more_body": False}]
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request"} | parts.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        app = SimpleNamespace(state=SimpleNamespace(engine_client=self))
        scope = {"type": "http", "method": method, "path": path, "app": app}
        asyncio.run(LatentMiddleware(self.app)(scope, receive, send))
        answer = b"".join(message["body"] for message in sent[1:])
        assert dict(sent[0]["headers"])[b"content-length"] == str(len(answer)).encode()
        return sent[0]["status"], json.loads(answer)


@pytest.fixture
def served() -> Served:
    return Served()


def test_a_request_without_options_passes_as_it_is(served: Served) -> None:
    assert served.post({"messages": MESSAGES}) == (200, {"choices": [{"index": 0}, {"index": 1}]})
    assert served.requests == [{"messages": MESSAGES}] and not served.taken


def test_what_is_no_json_object_is_vllms_to_refuse(served: Served) -> None:
    for body in (b"no json", b"[1, 2]", b"[" * 100_000):
        assert served.post(body)[0] == 200
    assert served.requests == [b"no json", b"[1, 2]", b"[" * 100_000]


def test_latents_come_with_the_choices_that_they_are_of(served: Served) -> None:
    _, answer = served.post({"messages": MESSAGES, "n": 2, RETURN: True, "vllm_xargs": {"other": 1}})
    assert answer["choices"] == [{"index": 0, "latents": ["zero"]}, {"index": 1, "latents": ["one", ""]}]
    (request,) = served.requests
    (key,) = served.taken
    assert request["vllm_xargs"] == {
        "other": 1, f"{PREFIX}return_key": key, f"{PREFIX}first_seed": request["seed"],
    }  # fmt: skip
    assert RETURN not in request and request["seed"] >= 0


def test_a_seed_of_the_caller_stays(served: Served) -> None:
    served.post({"messages": MESSAGES, "n": 2, "seed": 11, RETURN: True})
    served.post({"messages": MESSAGES, RETURN: True})
    assert served.requests[0]["seed"] == 11 and "seed" not in served.requests[1]


def test_an_error_passes_and_leaves_nothing_behind(served: Served) -> None:
    served.status = 503
    assert served.post({"messages": MESSAGES, RETURN: True}) == (503, {"error": "full"})
    assert len(served.taken) == 1


@pytest.mark.parametrize(
    "prompt",
    [
        {"messages": [{"role": "assistant", "content": "<|latent_start|><|latent|><|latent_end|>"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a <|latent|>"}]}]},
        {"prompt": "a <|latent|>"},
        {"prompt": [1, LATENT_ID]},
        {"prompt": [[1], [1, LATENT_ID]]},
        {"input": [{"role": "user", "content": "<|latent|>"}]},
        {"input": "a", "instructions": "<|latent|>"},
        {"messages": MESSAGES, "system": "<|latent|>"},
        {"messages": MESSAGES, "tools": [{"type": "function", "function": {"description": "<|latent|>"}}]},
        {"token_ids": [1, LATENT_ID]},
    ],
)
def test_a_prompt_with_latents_is_refused(served: Served, prompt: dict[str, Any]) -> None:
    status, answer = served.post(prompt)
    assert (status, served.requests) == (400, [])
    assert "a prompt holds <|latent|>, whose vectors are gone" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({RETURN: True, "stream": True}, "latents come with the whole answer"),
        ({"use_beam_search": True}, "a beam is a new request"),
        ({"sampling_params": {"extra_args": {f"{PREFIX}latents": "ones"}}}, "future_l1_latents: Input should be"),
        ({"vllm_xargs": {f"{PREFIX}latents": "ones"}}, "future_l1_latents: Input should be"),
        ({"vllm_xargs": {f"{PREFIX}return_key": "of another"}}, "are the server's own: ask with return_latents"),
        ({"vllm_xargs": {f"{PREFIX}latents": "vectors", f"{PREFIX}vectors": [encode_span(torch.ones(1, 3))]}},
         "has vectors of 2 finite numbers; found 3"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_refused_before_the_engine_sees_it(
    served: Served, fields: dict[str, Any], message: str
) -> None:
    status, answer = served.post({"messages": MESSAGES} | fields)
    assert (status, served.requests) == (400, [])
    assert message in answer["error"]["message"]


def test_latents_come_back_with_chat_alone(served: Served) -> None:
    status, answer = served.post({"prompt": ["a", "b"], RETURN: True}, path="/v1/completions")
    assert (status, served.requests) == (400, [])
    assert answer["error"]["message"] == "return_latents is for /v1/chat/completions"


def test_other_methods_are_not_read(served: Served) -> None:
    assert served.post(b"<|la", method="GET")[0] == 200
    assert served.requests == [b"<|la"]
