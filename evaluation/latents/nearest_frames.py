"""The real frames nearest to a span of one answer, and read-outs to paint it: of a benchmark's items, or of a clip."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import numpy as np

from evaluation.drawing.sheet import look_alike
from evaluation.latents.frame_pool import Frame, FrameEncoder, read_items
from evaluation.latents.readout import Readout, ReadoutFit
from evaluation.latents.retrieval import add_to_fit, is_held_out
from evaluation.latents.retrieval_report import distances

MIN_FIT_FRAMES = 8
"""Observed frames, all different, that a read-out of one clip needs."""
HELD_OUT = 4
"""The last frames in time, one in so many, are held out of the fit."""
NEAREST = 3
"""Frames that stand beside a span."""
FITTED_ITEMS = 200
"""Items of a benchmark, the first ones, that a read-out is fitted on and judged on."""


@dataclass(frozen=True)
class LabelledFrame:
    """A candidate: a real frame, what it is for people, and whether it lies behind what the model has observed."""

    frame: Frame
    label: str
    unobserved: bool = False


@dataclass(frozen=True)
class NearestFrame:
    """A candidate and its distance relative to that of the last observed frame (None where that one is 0)."""

    candidate: LabelledFrame
    relative_distance: float | None


def nearest(latents: np.ndarray, candidates: Sequence[LabelledFrame], last_observed: Frame) -> list[NearestFrame]:
    """The NEAREST candidates, nearest first, without those that look like a nearer one.

    latents [n,D], n > 0; the measure is that of `retrieval_report.distances`.
    """
    errors = distances(latents, np.stack([candidate.frame.features for candidate in candidates]))
    baseline = float(distances(latents, last_observed.features[None])[0])
    chosen: list[NearestFrame] = []
    for place in np.argsort(errors, kind="stable"):
        thumbnail = candidates[place].frame.thumbnail
        alike = (_alike(thumbnail, other.candidate.frame.thumbnail) for other in chosen)
        if len(chosen) < NEAREST and not any(alike):
            chosen.append(NearestFrame(candidates[place], float(errors[place]) / baseline if baseline else None))
    return chosen


def _alike(thumbnail: np.ndarray, other: np.ndarray) -> bool:
    return thumbnail.shape == other.shape and look_alike(thumbnail, other)


def readout_of_items(encoder: FrameEncoder, items: Path, seed: int) -> Readout | None:
    """The read-out of TwiFF-Bench items, fitted as `retrieval.score_spans` does; None where it paints no better than a
    flat colour."""
    fit = ReadoutFit()
    for item in islice(read_items(items), FITTED_ITEMS):
        try:
            observed, future = encoder.item(item)
        except (ValueError, OSError):
            continue
        add_to_fit(fit, observed, future, is_held_out(item.clip, seed))
    return _usable(fit.fit())


def readout_of_clip(observed: Sequence[Frame]) -> Readout | None:
    """A read-out of one clip's frames up to the last observed one; the last ones of these are held out.

    None where too few differ, or where it paints the later ones no better than a flat colour.
    """
    distinct = [frame for before, frame in pairwise(observed) if not look_alike(before.pixels, frame.pixels)]
    distinct = [*observed[:1], *distinct]
    if len(distinct) < MIN_FIT_FRAMES:
        return None
    fit, first = ReadoutFit(), len(distinct) - len(distinct) // HELD_OUT
    before = distinct[first - 1].features, distinct[first - 1].pixels
    for place, frame in enumerate(distinct):
        fit.add_observed(frame.features, frame.pixels, frame.grid, held_out=place >= first)
        if place >= first:
            fit.add_future((frame.features, frame.pixels), before, frame.grid)
    return _usable(fit.fit())


def _usable(readout: Readout | None) -> Readout | None:
    return readout if readout is not None and readout.r2 is not None and readout.r2 > 0 else None
