"""Writes the toy world's clips as the real ones are: short H.264 files that a row names by video id and clip number.

Key frame k of a clip shows step k - 1 exactly; between key frames the marble is on its way.
"""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from training.data.keyframes import KEY_FRAMES, key_frame_pool
from training.runtime.supervisor import die_with_parent
from training.tiny.world import SIDE, Boards, fog

FRAMES, OBSERVED_FRAMES, RATE = 16, 4, 8  # 16: short, all key frames differ, unevenly spaced
HIDDEN_FRAMES = 3  # of a stream-copied cut: in the file, before its first displayed frame
BATCH = 50
ENCODER = {"preset": "ultrafast", "tune": "zerolatency", "qp": "16", "g": "1000", "forced-idr": "1"}


@dataclass(frozen=True)
class ClipJob:
    """One clip to write: its file, its board (tiles, position, direction) and how it is filmed.

    `fog_level` hides everything after the observed key frame (0 nothing, 1 all); `observed_only` stops at step 0;
    `pre_roll` leaves hidden frames before the first displayed one, which are not displayed.
    """

    path: Path
    tiles: tuple[int, ...]
    pos: int
    direction: int
    fog_level: float = 0.0
    observed_only: bool = False
    pre_roll: bool = False


def clip_frames(job: ClipJob) -> np.ndarray:
    """The displayed frames of a clip, uint8 [frames, 64, 64, 3]."""
    count = OBSERVED_FRAMES if job.observed_only else FRAMES
    steps = np.zeros(count)
    if not job.observed_only:
        steps = np.interp(np.arange(count), key_frame_pool(count), np.arange(KEY_FRAMES))
    board = Boards(np.array([job.tiles]), np.array([job.pos]), np.array([job.direction]))
    frames = board[np.zeros(count, int)].frames(steps)
    if job.fog_level:
        frames[steps > 0] = fog(frames[steps > 0], job.fog_level)
    return frames


def write_batch(jobs: Sequence[ClipJob]) -> int:
    """Encodes clips (H.264, yuv420p) one after the other; returns how many.

    All go through one encoder, each from an intra frame on: opening one takes longer than encoding a clip.  Constant
    quantiser, so that a clip does not depend on those before it.
    """
    import av
    from av.video.frame import PictureType

    encoder = av.CodecContext.create("libx264", "w")
    encoder.width = encoder.height = SIDE
    encoder.pix_fmt, encoder.framerate, encoder.time_base = "yuv420p", Fraction(RATE), Fraction(1, RATE)
    encoder.options, encoder.thread_count = ENCODER, 1
    encoded = 0
    for job in jobs:
        frames = clip_frames(job)
        hidden = HIDDEN_FRAMES if job.pre_roll else 0
        with av.open(str(job.path), "w") as container:
            stream = container.add_mux_stream("h264", rate=RATE, width=SIDE, height=SIDE, time_base=encoder.time_base)
            for number, image in enumerate(np.concatenate([frames[:hidden], frames])):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = encoded
                frame.pict_type = PictureType.I if number == 0 else PictureType.NONE
                (packet,) = encoder.encode(frame)  # "zerolatency": each frame is a packet at once
                packet.pts = packet.dts = number - hidden  # a negative time is not displayed
                packet.stream = stream
                container.mux(packet)
                encoded += 1
    return len(jobs)


def write_clips(jobs: Sequence[ClipJob], progress: Callable[[int, int], None], workers: int = 0) -> None:
    """Encodes all clips in `workers` processes (0: one per core); `progress(done, total)` after each batch.

    Processes, not threads: two threads were no faster than one.  They end with this one.
    """
    for folder in {job.path.parent for job in jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    batches = [jobs[i : i + BATCH] for i in range(0, len(jobs), BATCH)]
    workers = min(workers or os.cpu_count() or 1, len(batches))
    done = 0
    if workers <= 1:
        for batch in batches:
            done += write_batch(batch)
            progress(done, len(jobs))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=die_with_parent) as pool:
        for written in pool.map(write_batch, batches):
            done += written
            progress(done, len(jobs))
