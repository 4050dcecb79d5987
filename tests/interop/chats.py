"""Prompts as chats, with pictures and videos as our own decoder sees them; and its answers, which are the reference."""

import base64
import io
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evaluation.generation.config import GenerationConfig
from evaluation.generation.local import encode
from training.data.parts import Part
from training.data.video import FrameCache, frame_rate
from training.model.checkpoint import load
from training.model.completions import Decoded
from training.model.decode import decode
from training.model.encoding import Encoded
from training.model.interventions import Intervention
from training.model.modes import Spans
from training.model.sampling import Sampling

Answer = tuple[list[int], np.ndarray]
"""Tokens, and latents in float32."""


class Reference:
    """Our own decoder with a checkpoint, greedy, in float32."""

    def __init__(self, checkpoint: Path, generation: GenerationConfig) -> None:
        self.bundle, self.limit = load(checkpoint), generation.max_new_tokens
        self._encoder = self.bundle.prompt_encoder(generation.image_tokens, generation.system_prompt)
        self._frames = FrameCache(2**26)

    def encoded(self, content: Sequence[Part]) -> Encoded:
        """A prompt's content, as it is decoded."""
        return encode(self._encoder, content, self._frames)

    def decoded(
        self,
        prompts: Sequence[Encoded],
        intervention: Intervention | None = None,
        spans: Spans | None = None,
        scripts: Sequence[Sequence[int]] | None = None,
    ) -> Decoded:
        """An answer to each."""
        bundle, sampling = self.bundle, Sampling(self.limit)
        return decode(bundle.model, bundle.vision(), bundle.tokens, prompts, sampling, spans or bundle.spans,
                      [[0]] * len(prompts), intervention=intervention, scripts=scripts)  # fmt: skip

    def answers(self, decoded: Decoded) -> list[Answer]:
        """The answers one by one."""
        return [(answer.ids, answer.latents.numpy().ravel()) for answer in decoded.completions(self.bundle.tokens)]


def chat(content: Sequence[Part], encoded: Encoded) -> dict[str, Any]:
    """The fields of a chat request for a prompt: pictures at the size that our encoder gave them, frames with their
    times."""
    observed, parts = iter(encoded.observed), list[dict[str, Any]]()
    fields: dict[str, Any] = {"mm_processor_kwargs": {"do_resize": False}}
    for part in content:
        match part["type"]:
            case "text":
                parts.append({"type": "text", "text": part["text"]})
            case "image":
                parts.append(_url("image", "png", _png(next(observed).frames[0])))
            case "video":
                pairs, numbers = islice(observed, (len(part["frames"]) + 1) // 2), sorted(part["frames"])
                frames = [frame for pair in pairs for frame in pair.frames][: len(numbers)]
                parts.append(_url("video", "jpeg", *map(_png, frames)))  # the type's name; PNG is read, too
                times = {"frames_indices": numbers, "total_num_frames": numbers[-1] + 1}
                fields["media_io_kwargs"] = {"video": {"num_frames": -1, "fps": frame_rate(part["path"]), **times}}
    return {"messages": [{"role": "user", "content": parts}], **fields}


def clip_as_it_is(path: Path) -> dict[str, Any]:
    """A clip's file as a part of a chat."""
    return _url("video", "mp4", base64.b64encode(path.read_bytes()).decode())


def decoded_spans(spans: Sequence[str]) -> np.ndarray:
    """Latents as they come from the engine."""
    return np.frombuffer(b"".join(map(base64.b64decode, spans)), "<f4")


def _url(kind: str, form: str, *data: str) -> dict[str, Any]:
    return {"type": f"{kind}_url", f"{kind}_url": {"url": f"data:{kind}/{form};base64,{','.join(data)}"}}


def _png(frame: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
