"""A checkpoint that vLLM serves with our plug-in (training.engines), as chat requests and replies.

Its folder is here, too.  Its processor renders a prompt as for the local engine, frames at their final sizes and
without loss, and its tokenizer reads the answers; so it is compared token by token what a server has read, and checked
whether an answer is one that this checkpoint can give.  Names: D hidden size.
"""

import base64
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor

from evaluation.generation.chat_messages import system_turn
from evaluation.generation.config import GenerationConfig
from evaluation.generation.local import patched, prompt_of
from evaluation.generation.records import answer_record, stored_latents
from evaluation.generation.requests import Answer, Request
from evaluation.generation.text_chat import sampling
from training.chat.completion import ChatCompletion, Choice, MalformedError, one_line
from training.chat.connection import MAX_BODY_BYTES, ReplyRules
from training.chat.endpoint import EndpointRefusesError
from training.chat.server import UnansweredError
from training.data.parts import Part
from training.data.prompts import ENGINE
from training.data.video import FrameCache, frame_rate
from training.engines.checks import read_config
from training.engines.kept import LATENTS_IN_PROMPT
from training.engines.options import PREFIX, decode_span
from training.engines.requests import RETURN
from training.model.completions import decoded_text
from training.model.encoding import Encoder, FrameLimits
from training.model.latent_config import LatentConfig
from training.model.tokens import LATENT, LATENT_END, LATENT_START, lookup
from training.model.vision import Patches
from training.storage.hashing import model_digest

Options = Callable[[Request], Mapping[str, Any]]
"""The fields of training.engines.options.LatentOptions for a request for one answer."""
Kept = Literal["tokens", "latents", "vectors"]
"""What is kept of an answer: no latents; the column `latents`; or, as `vectors`, its spans as options have them, to be
lent to other answers."""


class ServedCheckpoint:
    """A checkpoint's folder, without its weights.

    hash: of its files; width: D; latent_config: None for a model without latents, whose server needs no options.
    """

    def __init__(self, folder: Path) -> None:
        """Raises ValueError for a folder without a model, or with one that vLLM cannot be given."""
        config = read_config(folder)
        self.hash = model_digest(folder)
        self.latent_config = LatentConfig(**config["future_l1"]) if "future_l1" in config else None
        self.width, self.vocabulary = (config["text_config"][name] for name in ("hidden_size", "vocab_size"))
        self.processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
        if self.latent_config is None:  # as training.model.checkpoint.load does
            self.processor.tokenizer.add_tokens([LATENT, LATENT_START, LATENT_END], special_tokens=False)
        self.tokens = lookup(self.processor.tokenizer)


class LatentForm:
    """Implements evaluation.generation.endpoint.ChatForm: a request for each answer, with its own seed."""

    failure: EndpointRefusesError | None = None

    def __init__(
        self, checkpoint: ServedCheckpoint, generation: GenerationConfig, options: Options, kept: Kept
    ) -> None:
        self.checkpoint, self.generation, self.kept, self._options = checkpoint, generation, kept, options
        # latents are base64 of four bytes a number
        longest = MAX_BODY_BYTES + 6 * generation.max_new_tokens * checkpoint.width
        self.rules = ReplyRules(longest, checkpoint.hash)
        limits = FrameLimits(generation.image_tokens, latents=1)
        self._encoder = Encoder(checkpoint.processor, limits, generation.system_prompt)
        self._last = time.perf_counter()

    def chat(self, request: Request, frame_cache: FrameCache) -> "LatentChat":
        """Implements ChatForm.chat; a prompt that holds latents is a ValueError, too."""
        parts = list(patched(self._encoder, request.content, frame_cache))
        content, media = _content(parts)
        fields: dict[str, Any] = {
            "messages": [*system_turn(self.generation), {"role": "user", "content": content}],
            **sampling(self.generation),
            "top_k": 0,  # these three: else the server's own, where it has some
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            **media,
            "stop_token_ids": [self.checkpoint.tokens.pad],  # it ends an answer here, too
            "return_token_ids": True,
        }
        if self.generation.temperature > 0:
            (fields["seed"],) = request.seeds
        if self.checkpoint.latent_config is not None:
            if self.kept != "tokens":
                fields[RETURN] = True
            if options := self._options(request):
                fields["vllm_xargs"] = {f"{PREFIX}{name}": value for name, value in options.items()}
        prompt = prompt_of(self._encoder, parts).ids
        if self.checkpoint.tokens.latent in prompt:  # in parts it passes the server, whose engine answers with nothing
            raise ValueError(LATENTS_IN_PROMPT)
        return LatentChat(self, request.prompt_id, prompt, fields)

    def lap(self) -> float:
        """Seconds since the last answer: what the server gets through, however many requests are in flight."""
        last, self._last = self._last, time.perf_counter()
        return self._last - last


@dataclass(frozen=True)
class LatentChat:
    """Implements evaluation.generation.endpoint.Chat, for one answer; prompt: its tokens."""

    form: LatentForm
    prompt_id: str
    prompt: list[int]
    fields: dict[str, Any]

    def body(self, samples: Sequence[int]) -> dict[str, Any]:
        return self.fields

    def answers(self, samples: Sequence[int], completion: ChatCompletion) -> list[Answer]:
        """Raises MalformedError for a reply that is none of this checkpoint's, UnansweredError where the server read
        another prompt, or its context ended the answer."""
        (sample,) = samples
        checkpoint, tokens = self.form.checkpoint, self.form.checkpoint.tokens
        self._check_prompt(completion.prompt_token_ids)
        choice = completion.choices[0]
        ids = self._tokens(choice)
        finished = ids[-1] in (tokens.end_of_turn, tokens.pad)
        if not finished and len(ids) < self.form.generation.max_new_tokens:
            raise UnansweredError("refused", f"the server's context ended the answer after {len(ids)} tokens: give it "
                                  "a larger --max-model-len")  # fmt: skip
        ids = [token for token in ids if token != tokens.pad]
        answer = answer_record(
            self.prompt_id, sample, ids, decoded_text(ids, tokens, checkpoint.processor.tokenizer), tokens,
            finished=finished, prompt_tokens=len(self.prompt), prefill_seconds=0.0, decode_seconds=self.form.lap(),
        )  # fmt: skip
        answer[ENGINE] = one_line(f"{completion.system_fingerprint}, plug-in {completion.plugin}")
        if self.form.kept == "latents":
            answer["latents"] = self._stored(choice, answer["spans"])
        elif self.form.kept == "vectors":
            self._latents(choice, answer["spans"])
            answer["vectors"] = choice.latents
        return [answer]

    def _stored(self, choice: Choice, sizes: Sequence[int]) -> bytes | None:
        try:
            return stored_latents(self.prompt_id, self._latents(choice, sizes))
        except ValueError as error:
            raise UnansweredError("refused", str(error)) from None

    def _latents(self, choice: Choice, sizes: Sequence[int]) -> torch.Tensor:
        """The latents [n,D] of a reply, which are as many as the answer's placeholders."""
        width = self.form.checkpoint.width
        if RETURN not in self.fields:
            return torch.empty(0, width)
        spans = choice.latents
        if choice.latents_error is not None:
            raise UnansweredError("refused", f"no latents: {one_line(choice.latents_error)}")
        if not isinstance(spans, list) or [isinstance(span, str) for span in spans] != [True] * len(sizes):
            raise MalformedError(f"a reply without the latents of its {len(sizes)} spans")
        try:
            latents = [decode_span(span, width) if span else torch.empty(0, width) for span in spans]
        except ValueError as error:
            raise MalformedError(f"a reply whose latents cannot be read: {error}") from None
        if (lengths := list(map(len, latents))) != list(sizes):
            raise MalformedError(f"a reply with latents for spans of {lengths}, whose tokens have {list(sizes)}")
        return torch.cat(latents) if latents else torch.empty(0, width)

    def _check_prompt(self, read: Any) -> None:
        if not isinstance(read, list):
            raise MalformedError("a reply without the prompt's token ids")
        if read != self.prompt:
            raise UnansweredError("refused", f"the server reads the prompt as {len(read)} tokens, which are not our "
                                  f"{len(self.prompt)}: is it a vLLM of our version, with the checkpoint's own chat "
                                  "template and processor?")  # fmt: skip

    def _tokens(self, choice: Choice) -> list[int]:
        """The answer's tokens, which the rules of spans allow."""
        checkpoint, ids = self.form.checkpoint, choice.token_ids
        t, most = checkpoint.tokens, self.form.generation.max_new_tokens
        if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < checkpoint.vocabulary for i in ids):
            raise MalformedError("a reply without the answer's token ids")
        ends = [at for at, token in enumerate(ids, 1) if token in (t.end_of_turn, t.pad)]
        ended = ends == [len(ids)]
        if choice.finish_reason != ("stop" if ended else "length") or (ends and not ended) or not 0 < len(ids) <= most:
            reason = one_line(str(choice.finish_reason))
            raise MalformedError(f"{len(ids)} of at most {most} tokens, with finish_reason {reason!r}")
        budget = checkpoint.latent_config.cap if checkpoint.latent_config else 0
        inside = t.inside_span(ids)
        allowed = all((i in (t.latent, t.latent_end)) if is_open else i != t.latent
                      for i, is_open in zip(ids, inside, strict=True))  # fmt: skip
        if not allowed or any(size > budget for size in t.span_sizes(ids)):
            raise MalformedError("text inside a span, a latent outside, or more than its budget")
        return ids


def _content(parts: Sequence[tuple[Part, list[Patches]]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A prompt's parts as vLLM takes them, and the request's fields by which it changes nothing of them.

    Raises ValueError for two videos, whose times one request cannot have.
    """
    content: list[dict[str, Any]] = []
    fields: dict[str, Any] = {}
    for part, patches in parts:
        frames = [frame for one in patches for frame in one.frames]
        match part["type"]:
            case "text":
                content.append({"type": "text", "text": part["text"]})
                continue
            case "image":
                content.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_png(frames[0])}"}})
            case "video":
                numbers = sorted(part["frames"])
                if "media_io_kwargs" in fields:
                    raise ValueError("a prompt with two videos, of which vLLM takes one")
                fields["media_io_kwargs"] = {"video": {
                    "num_frames": -1, "fps": frame_rate(part["path"]), "frames_indices": numbers,
                    "total_num_frames": numbers[-1] + 1,
                }}  # fmt: skip
                url = f"data:video/jpeg;base64,{','.join(map(_png, frames[: len(numbers)]))}"
                content.append({"type": "video_url", "video_url": {"url": url}})
        fields["mm_processor_kwargs"] = {"do_resize": False}
    return content, fields


def _png(frame: np.ndarray) -> str:
    data = io.BytesIO()
    Image.fromarray(frame).save(data, "PNG", compress_level=1)
    return base64.b64encode(data.getvalue()).decode()
