"""The frames of one clip that are nearest to a span, and what a read-out of one clip may paint."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation.explorer.examples import clip_example
from evaluation.explorer.footage import Footage, read_footage
from evaluation.latents.frame_pool import Frame, FrameEncoder
from evaluation.latents.nearest_frames import MIN_FIT_FRAMES, nearest, readout_of_clip
from training.data.probing import VideoInfo
from training.data.video import read_frames
from training.model.checkpoint import FutureL1


@pytest.fixture(scope="module")
def frames(sft_model: FutureL1, rows: list[dict[str, Any]]) -> list[Frame]:
    """All frames of a clip."""
    return FrameEncoder(sft_model).frames(read_frames(rows[2]["path"], range(16), rows[2]["reader"]))


def footage(sft_model: FutureL1, row: dict[str, Any], observed: list[int]) -> Footage:
    info = VideoInfo(16, 8.0, 64, 64, "sequential", 0, None)
    example = clip_example("clip/0", "c.mp4", Path(row["path"]), info, observed, "Which?")
    return read_footage(example, FrameEncoder(sft_model))


def test_a_span_that_is_a_frame_is_nearest_to_it(
    sft_model: FutureL1, rows: list[dict[str, Any]], frames: list[Frame]
) -> None:
    clip = footage(sft_model, rows[2], [1])
    (first, *others) = nearest(frames[8].features, clip.candidates, clip.last)
    assert first.candidate.frame.key == frames[8].key and first.candidate.unobserved
    assert first.relative_distance == pytest.approx(0, abs=1e-6)
    shares = [frame.relative_distance or 0 for frame in others]
    assert len(shares) == 2 and 0 < shares[0] <= shares[1]


def test_what_comes_after_the_observed_frames_is_the_future(sft_model: FutureL1, rows: list[dict[str, Any]]) -> None:
    clip = footage(sft_model, rows[2], [1, 3])
    assert [candidate.label for candidate in clip.candidates[:2]] == ["observed frame 1", "observed frame 2"]
    assert len(clip.future) == 5 and len(clip.candidates) == 16
    assert [candidate.unobserved for candidate in clip.candidates[:2]] == [False, False]


def test_too_few_frames_paint_nothing(frames: list[Frame]) -> None:
    assert readout_of_clip(frames[: MIN_FIT_FRAMES - 1]) is None
    assert readout_of_clip([frames[0]] * 20) is None, "all the same"


def test_enough_frames_paint_what_they_were_not_fitted_on(rows: list[dict[str, Any]], frames: list[Frame]) -> None:
    readout = readout_of_clip(frames[:14])
    assert readout is not None and readout.r2 is not None and 0 < readout.r2 <= 1
    assert readout.r2_of_change is not None and readout.r2_of_change <= readout.r2
    painting = readout.paint(frames[13].features, frames[13].grid)
    with Image.fromarray(frames[13].pixels) as true:
        small = np.asarray(true.resize(painting.shape[1::-1])).astype(int)
    assert np.abs(small - painting).mean() < 30
