"""Requests to vLLM's server that are not the usual one."""

from collections.abc import Mapping
from typing import Any

from tests.interop.chats import decoded_spans
from tests.interop.vllm_server import Server
from training.engines.options import PREFIX
from training.engines.requests import RETURN


def cases(server: Server, chat: Mapping[str, Any]) -> dict[str, bool]:
    """Cases of one request, and whether each came out as it must."""

    def answers(**fields: Any) -> list[dict[str, Any]]:
        options = {"max_tokens": 40, "temperature": 0, "return_token_ids": True, RETURN: True}
        status, body = server.post({**chat, **options, **fields})
        assert status == 200, body
        return [{name: choice[name] for name in ("token_ids", "latents", "logprobs")} for choice in body["choices"]]

    (plain,) = answers(logprobs=True)
    entries = plain["logprobs"]["content"]
    latent = [entry["logprob"] for entry in entries if entry["token"] == "<|latent|>"]
    ids = dict(zip((entry["token"] for entry in entries), plain["token_ids"], strict=True))
    (ended,) = answers(allowed_token_ids=[ids["<|latent|>"]])
    sampled = {"n": 4, "temperature": 2, "top_p": 0.99}  # the model is sure of its answer
    four, again, other = (answers(**sampled, seed=seed) for seed in (3, 3, 30))
    (zeros,) = answers(vllm_xargs={f"{PREFIX}latents": "zeros"})
    lent = {f"{PREFIX}latents": "vectors", f"{PREFIX}vectors": zeros["latents"]}
    (text,) = answers(vllm_xargs={f"{PREFIX}may_open": False})
    messages = chat["messages"]
    refused = [
        {"messages": [{"role": "assistant", "content": "<|latent|>"}, *messages]},
        {"messages": messages, RETURN: True, "stream": True},
        {"messages": messages, RETURN: True, "stop": ["</reason>"]},
        {"messages": messages, "vllm_xargs": {f"{PREFIX}latents": "ones"}},
        {"messages": messages, "vllm_xargs": {f"{PREFIX}script": [10**6]}},
        {"messages": messages, "mm_processor_kwargs": {"size": {"longest_edge": 10**9}}},
    ]
    return {
        "log-probabilities": bool(latent) and not any(latent),
        "n with seeds": len(four) == 4 and four == again and four != other,
        "zeros": not decoded_spans(zeros["latents"]).any() and plain["latents"] != zeros["latents"],
        "others' latents": answers(vllm_xargs=lent) == [zeros],
        "text alone": text["latents"] == [],
        "nothing allowed but placeholders": ended["token_ids"] == [ids["<|im_end|>"]],
        "refusals": [server.post(body)[0] for body in refused] == [400] * len(refused),
        "a wrong key": server.post({"messages": messages}, key="another")[0] == 401,
    }
