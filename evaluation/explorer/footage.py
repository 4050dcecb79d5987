"""The frames of an example: those that the model observes, and the others of its clip."""

from dataclasses import dataclass

import numpy as np

from evaluation.explorer.examples import Example
from evaluation.generation.requests import with_images
from evaluation.latents.frame_pool import Frame, FrameEncoder, decoded
from evaluation.latents.nearest_frames import LabelledFrame
from training.data.video import FrameCache, read_frames

CLIP_FRAMES = 32
"""Frames of a clip, evenly spaced, that spans are compared with."""


@dataclass(frozen=True)
class Footage:
    """Frames at latent size, on one grid: the candidates, of which the last observed one is `last`; `future` are the
    true future frames in order; `until_last`: frames of the clip up to the last observed one, for a read-out."""

    candidates: list[LabelledFrame]
    last: Frame
    future: list[Frame]
    until_last: list[Frame]


def observed_images(example: Example, frame_cache: FrameCache) -> list[np.ndarray]:
    """The pictures of the prompt in order, uint8 RGB.  Raises ValueError or OSError for one that cannot be read."""
    return [pixels for _, images in with_images(example.content, frame_cache) for pixels in images]


def read_footage(example: Example, encoder: FrameEncoder) -> Footage:
    """Raises ValueError (UnreadableVideo among them) or OSError where frames cannot be read, and ValueError for a
    prompt without frames."""
    images = observed_images(example, FrameCache(0))
    if not images:
        raise ValueError("the prompt shows no frames")
    labelled = [(pixels, f"observed frame {k}", False) for k, pixels in enumerate(images, start=1)]
    if example.future_images:
        futures = decoded(example.future_images)
        labelled += [(pixels, f"true future frame {k}", True) for k, pixels in enumerate(futures, start=1)]
    elif example.clip is not None:
        labelled += _of_clip(example)
    grid = encoder.encoder.future(labelled[len(images)][0] if len(labelled) > len(images) else images[-1]).merged_grid
    frames = encoder.frames([pixels for pixels, _, _ in labelled], grid)
    candidates = [LabelledFrame(f, label, later) for f, (_, label, later) in zip(frames, labelled, strict=True)]
    future = [c.frame for c in candidates if c.label.startswith("true future")]
    until_last = [c.frame for c in candidates[len(images) :] if not c.unobserved] if example.clip else []
    return Footage(candidates, frames[len(images) - 1], future, until_last)


def _of_clip(example: Example) -> list[tuple[np.ndarray, str, bool]]:
    """The clip's frames that are not in the prompt, in order; the true future key frames are named as such."""
    assert example.clip is not None
    clip = example.clip
    observed = {number for part in example.content if part["path"] for number in part["frames"]}
    futures = {number: f"true future frame {k}" for k, number in enumerate(clip.future, start=1)}
    spread = np.linspace(0, clip.frame_count - 1, min(CLIP_FRAMES, clip.frame_count)).round().astype(int).tolist()
    wanted = sorted({*spread, *futures} - observed)
    pictures = read_frames(clip.path, wanted, clip.reader)
    last = max(observed)
    return [(pixels, futures.get(number, f"frame {number} of the clip"), number > last)
            for number, pixels in zip(wanted, pictures, strict=True)]  # fmt: skip
