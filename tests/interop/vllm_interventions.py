"""Interventions as options of requests to vLLM's server: the answers are those of `evaluation.generation`."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from evaluation.generation.interventions import forced_spans, intervene
from evaluation.generation.jobs import InterventionName
from evaluation.generation.requests import Request
from tests.interop.chats import Reference, chat
from tests.interop.table import Check
from tests.interop.vllm_server import Server, in_flight
from training.data.parts import Part
from training.engines.options import PREFIX, encode_span

NAMES: tuple[InterventionName, ...] = ("zeros", "noise", "mean", "first_repeated", "markers_only", "no_span", "spans_1",
                                       "spans_3")  # fmt: skip


def checks(reference: Reference, server: Server, title: str, contents: list[list[Part]]) -> Iterator[Check]:
    bundle, encoded = reference.bundle, [reference.encoded(content) for content in contents]
    draw = partial(reference.decoded, encoded)
    plain = draw()
    mean = plain.latents.mean(0).half().float()  # as it travels
    requests = [Request(str(n), content, (0,), (2**62 + n,), str(n)) for n, content in enumerate(contents)]
    chats = [chat(content, e) for content, e in zip(contents, encoded, strict=True)]
    for name in NAMES:
        ours = reference.answers(intervene(name, bundle, draw, requests, mean)[0])
        fields: list[dict[str, Any]] = [{} for _ in chats]
        if name.startswith("spans_"):
            wanted = int(name.removeprefix("spans_"))
            scripts = forced_spans(plain, bundle.tokens, bundle.processor.tokenizer, wanted, bundle.spans.latents)
            fields = [{"script": script, "may_open": False} for script in scripts]
        for field, request in zip(fields, requests, strict=True):
            field |= {
                "noise": {"latents": "noise", "noise_seed": request.seeds[0]},
                "mean": {"latents": "vectors", "vectors": [encode_span(mean.unsqueeze(0))]},
                "markers_only": {"max_latents": 0},
                "no_span": {"may_open": False},
            }.get(name, {"latents": name} if name in ("zeros", "first_repeated") else {})
        bodies = [
            {**body, "vllm_xargs": {f"{PREFIX}{key}": value for key, value in field.items()}}
            for body, field in zip(chats, fields, strict=True)
        ]
        answers = in_flight(lambda body: server.answer(body, reference.limit)[0], bodies)
        same = sum(answer[0] == tokens for answer, (tokens, _) in zip(answers, ours, strict=True))
        yield Check(f"{title}, {name}: answers token for token", "vLLM's server", same, len(ours))
