"""vLLM's server with our plug-in, as a client sees it, on loopback: our own decoder answers.

Requests are read as vLLM reads them, options by the plug-in's own code.  The real server is in `make interop`.
"""

import base64
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.served import Served, served
from training.engines.identity import CHECKPOINT_HEADER, PLUGIN_HEADER
from training.engines.options import latent_options, returned
from training.engines.requests import RETURN
from training.model.checkpoint import FutureL1
from training.model.decode import decode
from training.model.encoding import Encoded
from training.model.sampling import Sampling
from training.storage.hashing import model_digest

UNBOUNDED = (1, 10**6)
"""Merged vision tokens: images arrive at their final sizes, and stay as they are."""
Reply = dict[str, Any]


@dataclass
class LatentServer:
    """A served checkpoint; `spoil` changes each reply before it is sent, `hash` is the checkpoint that it names."""

    model: FutureL1
    hash: str | None
    spoil: Callable[[Reply], object] = lambda reply: None
    lock: Lock = field(default_factory=Lock)

    @property
    def headers(self) -> Mapping[str, str]:
        return {} if self.hash is None else {CHECKPOINT_HEADER: self.hash, PLUGIN_HEADER: "0123"}

    def respond(self, number: int, request: dict[str, Any]) -> tuple[int, bytes, Mapping[str, str]]:
        with self.lock:
            reply = self.answer(request)
        self.spoil(reply)
        return 200, json.dumps(reply).encode(), self.headers

    def answer(self, request: dict[str, Any]) -> Reply:
        assert request.get("n", 1) == 1 and request["return_token_ids"]
        assert (request["top_k"], request["min_p"], request["repetition_penalty"]) == (0, 0.0, 1.0)
        tokens, tokenizer = self.model.tokens, self.model.processor.tokenizer
        options, spans = latent_options(request.get("vllm_xargs")), self.model.spans
        if options.max_latents is not None:
            spans = replace(spans, latents=options.max_latents, may_open=spans.opened)
        if not options.may_open:
            spans = replace(spans, may_open=False)
        sampling = Sampling(request["max_tokens"], request["temperature"], request["top_p"])
        prompt = self.prompt(request)
        width = self.model.model.config.text_config.hidden_size
        decoded = decode(
            self.model.model, self.model.vision(), tokens, [prompt], sampling, spans, [[request.get("seed", 0)]],
            intervention=options.intervention(width, 0, torch.device("cpu")),
            scripts=[list(options.script)] if options.script else None,
        )  # fmt: skip
        (completion,) = decoded.completions(tokens)
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": "stop" if completion.finished else "length",
            "message": {"role": "assistant", "content": tokenizer.decode(completion.ids, skip_special_tokens=True)},
            "token_ids": completion.ids,
        }
        if request.get(RETURN):
            choice |= returned(list(completion.latents), tokens.span_sizes(completion.ids))
        return {"choices": [choice], "prompt_token_ids": prompt.ids, "system_fingerprint": "vllm-0.32.0-89abcdef"}

    def prompt(self, request: dict[str, Any]) -> Encoded:
        *system, user = request["messages"]
        encoder = self.model.prompt_encoder(UNBOUNDED, system[0]["content"] if system else None)
        pieces: list[Any] = []
        for part in user["content"]:
            kind = part["type"]
            if kind == "text":
                pieces.append(part["text"])
                continue
            assert request["mm_processor_kwargs"] == {"do_resize": False}
            media, _, data = part[kind]["url"].partition(";base64,")
            frames = [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in data.split(",")]
            if kind == "image_url":
                assert media == "data:image/png"
                pieces.append(encoder.patch(frames[0], *UNBOUNDED))
            else:
                assert media == "data:video/jpeg"
                times = request["media_io_kwargs"]["video"]
                assert len(times["frames_indices"]) == len(frames)
                pieces += encoder.patch_video(frames, times["frames_indices"], times["fps"], *UNBOUNDED)
        return encoder.prompt(pieces)


@contextmanager
def latent_server(
    model: FutureL1, checkpoint: Path, script: Callable[[int, Reply], Any] = lambda number, request: None
) -> Iterator[tuple[LatentServer, Served]]:
    """A server of this checkpoint, loaded as `model`; `script` comes first, as in tests.served."""
    server = LatentServer(model, model_digest(checkpoint))
    listing = {"data": [{"id": "served", "root": str(checkpoint), "parent": None},
                        {"id": "adapter", "parent": "served"}]}  # fmt: skip
    with served(script=lambda number, request: script(number, request) or server.respond(number, request)) as http:
        http.models = [200, json.dumps(listing).encode(), server.headers]
        yield server, http
