"""Key frames: the eight frames of a clip that TwiFF's indices 1..8 name.

One rule for curation, SFT, RL and evaluation (the release has a second, different one in its RL loader).  The spacing
is not uniform: the first and last frame of a clip are skipped, and the outer gaps are about half of the inner ones.
"""

from itertools import pairwise
from numbers import Integral

KEY_FRAMES = 8


def key_frame_pool(frame_count: int) -> list[int]:
    """Frame numbers of key frames 1..8 in a clip of `frame_count` displayed frames (upstream TwiFF's rule).

    Clips of fewer than 10 frames repeat some.  Raises ValueError for a clip without frames.
    """
    if frame_count < 1:
        raise ValueError(f"a clip needs at least one displayed frame to have key frames; it has {frame_count}")
    first = 1 if frame_count > 2 else 0
    last = frame_count - 2 if frame_count - 2 > first else frame_count - 1
    middles = min(KEY_FRAMES - 2, last - first)
    pool = [first]
    if middles:
        # Integer division is the reference's float64 linspace, truncated (equal for every clip up to 10,000 frames).
        edges = [first + 1 + i * (last - first - 1) // middles for i in range(middles + 1)]
        pool += [(left + right - 1) // 2 for left, right in pairwise(edges)]
    pool.append(last)
    return pool + [last] * (KEY_FRAMES - len(pool))


def key_frame_number(frame_count: int, index: int) -> int:
    """The frame number of key frame `index` (1..8).

    Raises ValueError for an index that is not an integer or lies outside 1..8: never another frame.
    """
    if not isinstance(index, Integral) or isinstance(index, bool) or not 1 <= index <= KEY_FRAMES:
        raise ValueError(f"a key-frame index is an integer from 1 to {KEY_FRAMES}; found {index!r}")
    return key_frame_pool(frame_count)[index - 1]
