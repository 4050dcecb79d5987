"""What a span shows: the real frames nearest to it, and the picture that a read-out paints of it."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evaluation.drawing.sheet import shaped_like
from evaluation.explorer.examples import Example
from evaluation.explorer.footage import Footage, read_footage
from evaluation.explorer.kept import Kept
from evaluation.latents.frame_pool import FrameEncoder, FramePool, frame_cache, list_items
from evaluation.latents.nearest_frames import (
    MIN_FIT_FRAMES,
    LabelledFrame,
    NearestFrame,
    nearest,
    readout_of_clip,
    readout_of_items,
)
from evaluation.latents.readout import Readout
from training.model.checkpoint import FutureL1

OTHERS = 100
"""Frames of other clips among the candidates, as in reports/latent_retrieval."""
POOL_BYTES, FOOTAGE_BYTES = 2**28, 2**28
"""Of the frames of other clips, and of the examples' own frames and read-outs, that stay in memory."""
PIXELS = 192
"""Of a picture's longer side on the page."""


@dataclass(frozen=True)
class Imagery:
    """The frames and the read-out that an example's spans are compared with and painted by; `believe` says how far the
    paintings are to be believed, or why there are none."""

    footage: Footage
    others: Sequence[LabelledFrame]
    readout: Readout | None
    believe: str

    def of_span(self, latents: np.ndarray) -> dict[str, Any]:
        """The pictures of a span [n,D], n > 0, as JSON.  Raises ValueError for latents that are no finite numbers."""
        if not np.isfinite(latents).all():
            raise ValueError("this model's latents are not finite numbers, so there is nothing to show of its answer: "
                             "its weights are broken, or too large for its precision")  # fmt: skip
        frames = nearest(latents, [*self.footage.candidates, *self.others], self.footage.last)
        painting = None
        if self.readout is not None:
            last = self.footage.last
            painting = data_url(shaped_like(self.readout.paint(latents, last.grid), last.thumbnail))
        return {"nearest": [_picture(frame) for frame in frames], "painting": painting}


class ImagerySource:
    """Imagery of examples for one checkpoint; `items`: TwiFF-Bench's table, whose frames are candidates and whose
    observed frames a read-out is fitted on; None: only the example's own clip."""

    def __init__(self, bundle: FutureL1, items: Path | None, seed: int) -> None:
        self.encoder = FrameEncoder(bundle)
        self._pool = FramePool(items, list_items(items), OTHERS, seed) if items else None
        self._readout = readout_of_items(self.encoder, items, seed) if items else None
        self._frames = frame_cache(POOL_BYTES)
        self._kept: Kept[str, tuple[Footage, Readout | None]] = Kept(FOOTAGE_BYTES, _nbytes)

    def of(self, example: Example) -> Imagery:
        """Raises ValueError or OSError where the example's frames cannot be read."""
        footage, readout = self._kept.get_or_make(example.key, lambda: self._read(example))
        others = []
        if self._pool is not None:
            frames = self._pool.beside(self.encoder, example.clip_name, footage.last.grid, self._frames)
            keys = {candidate.frame.key for candidate in footage.candidates}
            others = [LabelledFrame(frame, "another clip") for frame in frames if frame.key not in keys]
        believe = _believe(readout, "other clips" if self._readout else "this clip up to the last observed one")
        return Imagery(footage, others, readout, believe)

    def _read(self, example: Example) -> tuple[Footage, Readout | None]:
        footage = read_footage(example, self.encoder)
        return footage, self._readout or readout_of_clip(footage.until_last)


def _nbytes(kept: tuple[Footage, Readout | None]) -> int:
    footage, readout = kept
    frames = sum(candidate.frame.nbytes for candidate in footage.candidates)
    return frames + (readout.weights.nbytes if readout else 0)


def _believe(readout: Readout | None, source: str) -> str:
    if readout is None or readout.r2 is None:
        return (f"Latents are not painted: that needs a read-out from features to pixels that is better than a flat "
                f"colour, fitted on at least {MIN_FIT_FRAMES} different observed frames.")  # fmt: skip
    change = readout.r2_of_change or 0.0
    advice = "" if change > 0 else ", so believe the background alone"
    return (f"Paintings are made by a linear read-out from features to pixels, fitted on observed frames of {source}. "
            f"Its R² on frames that it was not fitted on is {readout.r2:.2f}; of what changed in them, {change:.2f}"
            f"{advice}.")  # fmt: skip


def _picture(frame: NearestFrame) -> dict[str, Any]:
    candidate = frame.candidate
    return {"image": data_url(candidate.frame.thumbnail), "label": candidate.label,
            "unobserved": candidate.unobserved, "distance": frame.relative_distance}  # fmt: skip


def data_url(pixels: np.ndarray) -> str:
    """A PNG of at most PIXELS a side as a data URL."""
    picture, buffer = Image.fromarray(pixels), io.BytesIO()
    picture.thumbnail((PIXELS, PIXELS))
    picture.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
