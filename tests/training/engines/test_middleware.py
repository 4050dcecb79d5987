"""Latents come back with the answers that asked for them, and prompts with latents go no further; the application is
ours, not vLLM's."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from training.engines import middleware
from training.engines.middleware import LatentMiddleware
from training.engines.options import PREFIX, encode_span
from training.engines.requests import CHAT, RETURN

VOCABULARY = ("<|latent|>", "<|latent_start|>", "<|latent_end|>", "<|image_pad|>", "<|video_pad|>", "<|im_end|>",
              "<|endoftext|>", "a")  # fmt: skip
LATENT_ID, START, END, WIDTH = 0, 1, 2, 2
TOKENIZER = SimpleNamespace(get_vocab=lambda: {token: number for number, token in enumerate(VOCABULARY)})
CONFIG = SimpleNamespace(latent_cap=3, future_l1={"span_end": "model"},
                         text_config=SimpleNamespace(hidden_size=WIDTH, vocab_size=len(VOCABULARY)))  # fmt: skip
BASE = SimpleNamespace(text_config=CONFIG.text_config)
MESSAGES = [{"role": "user", "content": [{"type": "text", "text": "Which colour?"}]}]


class Served:
    """vLLM's application and engine: answers that say how they were asked, and latents by key."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.taken: list[str] = []
        self.read = 0
        self.status = 200
        self.is_guarded, self.raises = False, True
        self.model_config = SimpleNamespace(hf_config=CONFIG)
        self.renderer = SimpleNamespace(get_tokenizer=lambda: TOKENIZER)
        self.latents: dict[int, dict[str, Any]] = {0: {"latents": ["zero"]}, 1: {"latents": ["one", ""]}}

    async def collective_rpc(self, method: str, args: tuple[str]) -> list[dict[int, dict[str, Any]]]:
        assert method == "take_latents"
        self.taken += args
        return [self.latents] * 2  # of two workers of the model

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if self.is_guarded:
            reply = b'{"error": "Unauthorized"}'
            headers = [(b"content-length", str(len(reply)).encode())]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": reply})
            return
        try:
            body = (await receive())["body"]
        except ValueError:
            if self.raises:
                raise
            body = b"an error while the body was read"
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
            self.read += 1
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
    served.post({"messages": MESSAGES, "n": 2, "seed": -1, RETURN: True})
    assert served.requests[0]["seed"] == 11 and "seed" not in served.requests[1]
    assert served.requests[2]["seed"] == served.requests[2]["vllm_xargs"][f"{PREFIX}first_seed"] >= 0


def test_latents_that_cannot_be_had_are_a_sentence(served: Served) -> None:
    lost = {"latents_error": "latents are not finite"}
    served.latents = {0: lost, 1: lost}
    _, answer = served.post({"messages": MESSAGES, RETURN: True})
    assert answer["choices"] == [{"index": 0, **lost}, {"index": 1, **lost}]


def test_an_answer_whose_latents_the_server_has_lost_is_a_fault_of_the_server(served: Served) -> None:
    del served.latents[1]
    status, answer = served.post({"messages": MESSAGES, RETURN: True})
    assert status == 503 and "were dropped: send it again" in answer["error"]["message"]


def test_nothing_is_read_of_a_request_that_vllm_does_not_let_in(served: Served) -> None:
    served.is_guarded = True
    assert served.post({"messages": [{"role": "user", "content": "<|latent|>"}]}) == (401, {"error": "Unauthorized"})
    assert served.read == 0


def test_a_body_has_a_limit(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "MAX_BODY", 2**20)
    status, answer = served.post({"messages": MESSAGES, "user": "a" * 2**20})
    assert (status, served.requests, answer["error"]["code"]) == (413, [], 413)
    assert answer["error"]["message"] == "the request is larger than 1 MiB: send smaller or fewer pictures"


def test_the_sentence_stands_also_where_vllm_has_caught_the_error(served: Served) -> None:
    served.raises = False
    status, answer = served.post({"prompt": "a <|latent|>"})
    assert status == 400 and "a prompt holds <|latent|>" in answer["error"]["message"]


FRAMES = {"video": {"num_frames": -1, "fps": 8.0, "frames_indices": [0, 4], "total_num_frames": 5}}


def test_pictures_at_their_final_size_and_times_of_frames_pass(served: Served) -> None:
    request = {"messages": MESSAGES, "mm_processor_kwargs": {"do_resize": False}, "media_io_kwargs": FRAMES}
    assert served.post(request)[0] == 200
    assert served.requests == [request]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mm_processor_kwargs": {"do_resize": True}}, "mm_processor_kwargs is"),
        ({"mm_processor_kwargs": {"do_resize": False, "size": {"longest_edge": 10**9}}}, "mm_processor_kwargs is"),
        ({"media_io_kwargs": {"video": {"video_backend": "torchcodec"}}}, "media_io_kwargs is"),
        ({"media_io_kwargs": {"image": {"image_mode": None}}}, "media_io_kwargs is"),
        ({"media_io_kwargs": [1]}, "media_io_kwargs is"),
        ({"media_io_kwargs": {"video": [1]}}, "media_io_kwargs is"),
    ],
)
@pytest.mark.parametrize("config", [CONFIG, BASE], ids=["latents", "base"])
def test_other_settings_of_media_are_refused(
    served: Served, config: Any, fields: dict[str, Any], message: str
) -> None:
    served.model_config.hf_config = config
    status, answer = served.post({"messages": MESSAGES} | fields)
    assert (status, served.requests) == (400, []) and message in answer["error"]["message"]


def test_a_model_without_latents_has_none_to_return(served: Served) -> None:
    served.model_config.hf_config = BASE
    assert served.post({"messages": [{"role": "user", "content": "<|latent|>"}]})[0] == 200
    status, answer = served.post({"messages": MESSAGES, RETURN: True})
    assert (status, answer["error"]["message"]) == (400, "return_latents: this checkpoint has no latents")


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
        ({RETURN: True, "stop": ["</reason>"]}, "leave out stop, ignore_eos and all of stop_token_ids but"),
        ({RETURN: True, "ignore_eos": True}, "leave out stop, ignore_eos"),
        ({RETURN: True, "stop_token_ids": [7]}, "leave out stop, ignore_eos"),
        ({RETURN: True, "stop_token_ids": [[7]]}, "leave out stop, ignore_eos"),
        ({RETURN: True, "stop_token_ids": 7}, "leave out stop, ignore_eos"),
        ({"use_beam_search": True}, "a beam is a new request"),
        ({"sampling_params": {"extra_args": {f"{PREFIX}latents": "ones"}}}, "future_l1_latents: Input should be"),
        ({"vllm_xargs": {f"{PREFIX}latents": "ones"}}, "future_l1_latents: Input should be"),
        ({"vllm_xargs": {"latents": "zeros"}}, "vllm_xargs: latents is future_l1_latents"),
        ({"vllm_xargs": {f"{PREFIX}return_key": "of another"}}, "are the server's own: ask with return_latents"),
        ({"vllm_xargs": {f"{PREFIX}latents": "vectors", f"{PREFIX}vectors": [encode_span(torch.ones(1, 3))]}},
         "has vectors of 2 finite numbers; found 3"),
        ({"vllm_xargs": {f"{PREFIX}script": [7, LATENT_ID]}}, "future_l1_script: token 0 cannot stand at 1"),
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
