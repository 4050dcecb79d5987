"""Chat messages, as lmms-eval's tasks write them, to a prompt.

A model with latents answers one user turn after the system turn of its training, of text, images and videos.  What it
cannot take raises ValueError, which says what was found.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evaluation.benchmarks.futurebench_items import frame_numbers
from training.data.dialogue import CONTROL
from training.data.images import open_image, rgb
from training.data.video import frame_rate, probe, read_frames
from training.model.encoding import Encoded, Encoder
from training.model.vision import Patches

MARKERS = tuple(control for control in CONTROL if control.startswith("<|"))
"""Texts that the tokenizer would turn into control tokens."""


@dataclass(frozen=True)
class PromptReader:
    """Reads chat messages for an encoder.

    A video shows up to `max_frames` frames, evenly spaced, in pairs of at most `video_tokens` merged tokens, as
    FutureBench's layout `video32` does.
    """

    encoder: Encoder
    max_frames: int
    video_tokens: int

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> Encoded:
        """The prompt of {"role", "content": [{"type": "text", "text"} or {"type", "url"}, ...]}.

        Raises ValueError (UnreadableVideo among them) or OSError for media, roles and texts that it cannot take.
        """
        if [message["role"] for message in messages] != ["user"]:
            roles = ", ".join(str(message["role"]) for message in messages)
            raise ValueError(f"a model with latents answers one user turn; found turns of: {roles}")
        return self.encoder.prompt([piece for part in messages[0]["content"] for piece in self._pieces(part)])

    def _pieces(self, part: Mapping[str, Any]) -> Iterator[str | Patches]:
        low, high = self.encoder.limits.observed
        match part["type"]:
            case "text":
                if marker := next((marker for marker in MARKERS if marker in part["text"]), None):
                    raise ValueError(f"the text carries the control token {marker}")
                yield part["text"]
            case "image":
                yield self.encoder.patch(_image(part["url"]), low, high)
            case "video":
                yield from self._pairs(part, min(low, self.video_tokens), self.video_tokens)
            case other:
                raise ValueError(f"a model of text, images and videos cannot take {other}")

    def _pairs(self, part: Mapping[str, Any], low: int, high: int) -> list[Patches]:
        path = part["url"]
        if not isinstance(path, str | Path):
            raise ValueError(f"a video is the path of a file; found {type(path).__name__}")
        if part.get("start_time") is not None or part.get("end_time") is not None:
            raise ValueError("a part of a video, from start_time to end_time, is not read: cut the file")
        if not Path(path).is_file():
            raise ValueError(f"no file at {path}")
        clip = probe(path, partial(frame_numbers, max_frames=self.max_frames))
        numbers = frame_numbers(clip.frames, self.max_frames)
        frames = read_frames(path, numbers, clip.reader)
        return self.encoder.patch_video(frames, numbers, frame_rate(path), low, high)


def _image(source: Any) -> np.ndarray:
    """uint8 height x width x RGB of an opened image, or of the file at a path."""
    if isinstance(source, Image.Image):
        return rgb(source)
    if isinstance(source, str | Path):
        return open_image(Path(source).read_bytes())
    raise ValueError(f"an image is an opened one or the path of a file; found {type(source).__name__}")
