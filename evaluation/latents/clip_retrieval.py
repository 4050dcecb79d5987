"""Retrieval within one clip: the frames nearest to each span of an answer, and latents painted by a read-out that is
fitted on the clip's observed frames."""

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
"""Frames of the clip, evenly spaced, that a span is compared with, beside the observed ones."""
MAX_FIT_FRAMES, MIN_FIT_FRAMES = 64, 8
"""Observed frames that a read-out is fitted on: at most, and at least (all different)."""
HELD_OUT = 4
"""The last frames in time, one in so many, are held out of the fit."""
NEAREST = 3
"""Frames that stand beside a span."""


@dataclass(frozen=True)
class NearestFrame:
    """A frame of the clip: its number, a thumbnail, and its distance relative to that of the last observed frame."""

    number: int
    thumbnail: np.ndarray
    relative_distance: float | None


@dataclass(frozen=True)
class SpanRetrieval:
    """A span's nearest frames, nearest first, and its painting (None: no read-out could be fitted)."""

    nearest: Sequence[NearestFrame]
    painting: np.ndarray | None


@dataclass(frozen=True)
class ClipRetrieval:
    """The retrieval of every span; `readout` painted them, or `no_readout` is the reason why there is none."""

    spans: Sequence[SpanRetrieval]
    readout: Readout | None
    no_readout: str


def retrieve(bundle: FutureL1, record: Record, spans: Sequence[np.ndarray]) -> ClipRetrieval:
    """Encodes the record's clip with the checkpoint's vision tower; spans: latents [n,D] of each.

    Raises UnreadableVideo for a clip that cannot be read.
    """
    row, observed = record.row, record.frame_numbers("observed")
    last = max(observed)
    numbers = sorted({*_spread(0, row["frame_count"] - 1, FRAMES), *observed})
    fit_numbers = _spread(0, last, MAX_FIT_FRAMES)
    wanted = sorted({*numbers, *fit_numbers})
    encoder = FrameEncoder(bundle)
    images = read_frames(row["path"], wanted, row["reader"])
    frames = dict(zip(wanted, encoder.frames(images), strict=True))
    readout, no_readout = _fit([frames[number] for number in fit_numbers])
    return ClipRetrieval([_span(frames, numbers, last, latents, readout) for latents in spans], readout, no_readout)


def _spread(first: int, last: int, n: int) -> list[int]:
    return sorted({round(number) for number in np.linspace(first, last, min(n, last - first + 1))})


def _span(
    frames: dict[int, Frame], numbers: Sequence[int], last: int, latents: np.ndarray, readout: Readout | None
) -> SpanRetrieval:
    if not len(latents):
        return SpanRetrieval([], None)
    errors = distances(latents, np.stack([frames[number].features for number in numbers]))
    baseline = float(distances(latents, frames[last].features[None])[0])
    nearest: list[NearestFrame] = []
    for place in np.argsort(errors, kind="stable"):
        thumbnail = frames[numbers[place]].thumbnail
        if len(nearest) < NEAREST and not any(look_alike(thumbnail, other.thumbnail) for other in nearest):
            relative = float(errors[place]) / baseline if baseline else None
            nearest.append(NearestFrame(numbers[place], thumbnail, relative))
    painting = shaped_like(readout.paint(latents, frames[last].grid), frames[last].thumbnail) if readout else None
    return SpanRetrieval(nearest, painting)


def _fit(observed: Sequence[Frame]) -> tuple[Readout | None, str]:
    """A read-out fitted on observed frames, or why there is none."""
    distinct = [frame for before, frame in pairwise(observed) if not look_alike(before.pixels, frame.pixels)]
    distinct = [*observed[:1], *distinct]
    if len(distinct) < MIN_FIT_FRAMES:
        return None, (
            f"Latents are not painted: up to the last observed frame the clip has {len(distinct)} different frames, a"
            f" read-out from features to pixels needs {MIN_FIT_FRAMES}."
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
