"""Whether two frames show the same picture: a small colour thumbnail as perceptual hash.

The distance of two frames is the mean absolute difference of their 8x8 RGB thumbnails, 0 to 255.  Measured (2026-11):
a frame of real footage against itself re-encoded at CRF 18 to 40 and at full, half and quarter size, or as JPEG at
quality 30: median 1.3, at most 7.5.  Two boards of the toy world, whose tiles are all of the same eight colours: at
least 15.9 over four million pairs; frames of different real clips: at least 39.  Gradient hashes (dHash, with and
without a dead zone) do not separate these: flat tiles make their bits a matter of noise.  Not recognised: cropping,
mirroring, letterboxing, a strong change of brightness.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from training.data.video import UnreadableVideo, read_frames

MAX_COPY_DISTANCE = 10.0
"""The largest distance of two signatures that are taken for copies of one frame."""
_SIDE = 8


def signature(frame: np.ndarray) -> np.ndarray:
    """uint8 [192] of an RGB frame [height, width, 3]."""
    small = Image.fromarray(frame).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.uint8).reshape(-1)


def clip_signatures(path: str, numbers: Sequence[int], reader: str) -> list[np.ndarray]:
    """The signatures of a clip's frames by number; none for a clip that cannot be read any more.

    Selection, its check and the sampled sets all look at the same rows: a clip is opened once.
    """
    try:
        changed = Path(path).stat().st_mtime_ns
    except OSError:
        return []
    return list(_clip_signatures(path, tuple(numbers), reader, changed))


@lru_cache(maxsize=2**16)  # some 300 bytes each
def _clip_signatures(path: str, numbers: tuple[int, ...], reader: str, changed: int) -> tuple[np.ndarray, ...]:
    try:
        return tuple(signature(frame) for frame in read_frames(path, numbers, reader))
    except (UnreadableVideo, ValueError):
        return ()


def distances(some: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> np.ndarray:
    """float [m, n]: the distance of each of the m signatures from each of the n others."""
    one = np.stack(some).astype(np.int16)
    return np.stack([np.abs(one - other.astype(np.int16)).mean(1) for other in others], axis=1)


def any_near(some: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> bool:
    """Whether a frame of the one group is near a frame of the other; both hold signatures."""
    return bool(some and others and distances(some, others).min() <= MAX_COPY_DISTANCE)
