"""What one answer's spans show of its own clip: the frames nearest to each, and latents painted by a read-out that was
fitted on what was observed of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from evaluation.drawing.sheet import look_alike, shaped_like
from evaluation.latents.frame_pool import Frame, FrameEncoder
from evaluation.latents.readout import Readout, ReadoutFit
from evaluation.latents.retrieval_report import distances
from training.data.records import Record
from training.data.video import read_frames
from training.model.checkpoint import FutureL1

FRAMES = 32
"""Frames of the clip, evenly spaced, that a span is compared with; those that were shown are always among them."""
FITTED = 64
"""Most observed frames that a read-out is fitted on."""
ENOUGH = 8
"""Fewest of them, all different."""
HELD_OUT = 4
"""The last one in so many of them, in time, is held out."""
NEAREST = 3


@dataclass(frozen=True)
class NearestFrame:
    """A frame of the clip: its number, its picture, and its distance as a share of the last shown frame's."""

    number: int
    shown: np.ndarray
    share: float | None


@dataclass(frozen=True)
class SpanRetrieval:
    """A span's nearest frames, nearest first, and its painting (None: nothing could be fitted)."""

    near: Sequence[NearestFrame]
    painted: np.ndarray | None


@dataclass(frozen=True)
class ClipRetrieval:
    """What the spans show; `readout` painted them, or `unpainted` says why there is none."""

    spans: Sequence[SpanRetrieval]
    readout: Readout | None
    unpainted: str


def view(bundle: FutureL1, record: Record, spans: Sequence[np.ndarray]) -> ClipRetrieval:
    """Looks at the record's clip with the checkpoint's tower; spans: latents [n,D] of each.

    Raises UnreadableVideo for a clip that cannot be read.
    """
    row, shown = record.row, record.frame_numbers("observed")
    last = max(shown)
    numbers = sorted({*_spread(0, row["frame_count"] - 1, FRAMES), *shown})
    seen = _spread(0, last, FITTED)
    wanted = sorted({*numbers, *seen})
    eye = FrameEncoder(bundle)
    images = read_frames(row["path"], wanted, row["reader"])
    frames = dict(zip(wanted, eye.frames(images), strict=True))
    readout, unpainted = _fitted([frames[number] for number in seen])
    return ClipRetrieval([_span(frames, numbers, last, latents, readout) for latents in spans], readout, unpainted)


def _spread(first: int, last: int, most: int) -> list[int]:
    return sorted({round(number) for number in np.linspace(first, last, min(most, last - first + 1))})


def _span(
    frames: dict[int, Frame], numbers: Sequence[int], last: int, latents: np.ndarray, readout: Readout | None
) -> SpanRetrieval:
    if not len(latents):
        return SpanRetrieval([], None)
    found = distances(latents, np.stack([frames[number].features for number in numbers]))
    still = float(distances(latents, frames[last].features[None])[0])
    near: list[NearestFrame] = []
    for place in np.argsort(found, kind="stable"):
        shown = frames[numbers[place]].shown
        if len(near) < NEAREST and not any(look_alike(shown, other.shown) for other in near):
            near.append(NearestFrame(numbers[place], shown, float(found[place]) / still if still else None))
    painted = shaped_like(readout.paint(latents, frames[last].grid), frames[last].shown) if readout else None
    return SpanRetrieval(near, painted)


def _fitted(seen: Sequence[Frame]) -> tuple[Readout | None, str]:
    """A read-out fitted on what was observed, or why there is none."""
    distinct = [*seen[:1], *(frame for before, frame in pairwise(seen) if not look_alike(before.pixels, frame.pixels))]
    if len(distinct) < ENOUGH:
        return None, (
            f"Latents are not painted: up to the last shown frame the clip has {len(distinct)} different frames, a"
            f" read-out from features to pixels needs {ENOUGH}."
        )
    fit, first = ReadoutFit(), len(distinct) - len(distinct) // HELD_OUT
    before = distinct[first - 1].features, distinct[first - 1].pixels
    for place, frame in enumerate(distinct):
        fit.add_observed(frame.features, frame.pixels, frame.grid, held_out=place >= first)
        if place >= first:
            fit.add_future((frame.features, frame.pixels), before, frame.grid)
    readout = fit.fit()
    if readout is None or readout.r2 is None or readout.r2 <= 0:
        return None, (
            "Latents are not painted: a read-out fitted on the first observed frames of this clip does not paint the"
            " later ones any better than a flat colour would."
        )
    return readout, ""


def latents_of(answer: dict[str, Any]) -> list[np.ndarray]:
    """The latents of each span of an answer of `evaluation.reports.prediction.predict`."""
    sizes = answer["latents_per_span"]
    if not sum(sizes):
        return [np.zeros((0, 0), np.float32) for _ in sizes]
    return np.split(np.array(answer["latents"], np.float32), np.cumsum(sizes)[:-1])
