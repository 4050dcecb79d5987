"""Clips of the user's own: files of bounded size, decoded first in a process of its own, in bounded time and memory."""

import threading
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from evaluation.explorer.examples import Example, clip_example
from training.data.keyframes import key_frame_pool
from training.data.probe_pool import ProbePool
from training.data.video import UnreadableVideo
from training.storage.hashing import digest

GROUP = "clip"
MAX_BYTES = 64 * 2**20
MAX_FRAMES = 3000
MAX_PIXELS = 3840 * 2160
"""Of a frame: some forty of a clip are in memory at once, 1 GB of these."""
SECONDS = 20
"""For decoding a clip once."""
MAX_QUESTION = 8000
"""Characters."""
KEPT = 8
"""Clips; the oldest are deleted."""


class Uploads:
    """The clips of a session, in a folder that is its own; their keys depend on clip, frames and question alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._examples: dict[str, Example] = {}
        self._pool: ProbePool | None = None
        self._adding = threading.Lock()

    def close(self) -> None:
        """Ends the process that decodes."""
        if self._pool is not None:
            self._pool.close()

    def titles(self) -> dict[str, str]:
        """The titles by their key, the latest first."""
        return {key: example.title for key, example in reversed(list(self._examples.items()))}

    def example(self, key: str) -> Example:
        """Raises ValueError for a key of no clip that is here."""
        if key not in self._examples:
            raise ValueError(f"there is no item {key[:80]!r} here; a clip of your own is kept until the explorer ends, "
                             f"or {KEPT} others came: give it again")  # fmt: skip
        return self._examples[key]

    def add(self, data: bytes, name: str, frames: str, question: str) -> Example:
        """A clip with a question about some of its key frames (`frames`, as 1,3).

        Raises ValueError, a sentence, for what cannot be read or is too large, and OSError where the disk is full.
        """
        if len(data) > MAX_BYTES:
            raise ValueError(too_large())
        if len(question) > MAX_QUESTION:
            raise ValueError(f"the question has {len(question)} characters; at most {MAX_QUESTION} are taken")
        indices = read_key_frames(frames)
        name = Path(name).name[:80] or "clip"
        key = f"{GROUP}/{digest([blake2b(data).hexdigest(), indices, question])}"
        with self._adding:  # two tabs' one after the other
            if key in self._examples:
                return self._examples[key]
            path = self._folder / key.replace("/", "-")
            try:
                path.write_bytes(data)
                example = self._probed(key, name, path, indices, question)
            except (ValueError, OSError):
                path.unlink(missing_ok=True)
                raise
            self._examples[key] = example
            while len(self._examples) > KEPT:
                oldest = next(iter(self._examples))
                del self._examples[oldest]
                (self._folder / oldest.replace("/", "-")).unlink()
            return example

    def _probed(self, key: str, name: str, path: Path, frames: Sequence[int], question: str) -> Example:
        self._pool = self._pool or ProbePool(processes=1, seconds=SECONDS)
        try:
            info = self._pool.probe(path, key_frame_pool)
        except UnreadableVideo as error:
            raise ValueError(f"{name} cannot be read as a video: {error}") from error
        if info.frames > MAX_FRAMES:
            raise ValueError(f"{name} has {info.frames} frames; at most {MAX_FRAMES} are taken: cut it shorter")
        if info.width * info.height > MAX_PIXELS:
            raise ValueError(f"{name} has frames of {info.width} x {info.height} pixels; at most {MAX_PIXELS} "
                             "are taken, as 3840 x 2160 has: make it smaller")  # fmt: skip
        return clip_example(key, name, path, info, frames, question)


def too_large() -> str:
    """The sentence about a clip of too many bytes."""
    return f"the clip is larger than {MAX_BYTES >> 20} MiB: cut it shorter, or make it smaller"


def read_key_frames(text: str) -> list[int]:
    """Key-frame indices as a person writes them.  Raises ValueError for what is none, and for one twice."""
    try:
        indices = [int(index) for index in text.split(",")]
    except ValueError:
        indices = []
    if not indices or len(set(indices)) < len(indices):
        raise ValueError(f"key frames are different numbers 1..8 with commas between, as 1,3; found {text[:40]!r}")
    return indices
