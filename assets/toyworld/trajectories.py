"""The toy world's training rows in the TwiFF-2.7M layout: hard, easy and ambiguous questions, and a few broken rows.

Hard rows ask for a later step.  Easy rows ask for the step that is shown, so the base answers them without any hint;
in ambiguous rows the future frames lie in fog, so the hint helps little.  Visual gain has to tell them apart.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from assets.toyworld.broken import CORRUPT_CLIP, FAULTS, spoiled
from assets.toyworld.clips import FRAMES, RATE, ClipJob
from training.tiny.world import (
    CATEGORIES,
    COLOURS,
    Boards,
    Questions,
    ask,
    draw_boards,
    options_text,
    question_text,
    reasoning,
)

SHARD_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "video": pl.String,
    "question": pl.String,
    "answer": pl.String,
    "question_images_index": pl.List(pl.Int64),
    "reasoning_images_index": pl.List(pl.Int64),
    "meta_data": pl.Struct(
        {"Process": pl.String, "Summary": pl.String, "classification": pl.String, "start": pl.String, "end": pl.String}
    ),
}
HOPS = (1, 2, 3)
LAST_VISIBLE_STEP = 7  # the last key frame shows step 7
LEAST_FOG = 0.3
ID_CHARACTERS = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))

Row = dict[str, Any]


@dataclass(frozen=True)
class Mix:
    """Shares of the training rows: easy, ambiguous, with a later event in words, without options."""

    easy: float = 0.08
    """Rows whose observed frame holds the answer."""
    ambiguous: float = 0.08
    """Rows whose future frames lie in fog."""
    interpolation: float = 0.15
    """Rows that state a later event in words."""
    open_ended: float = 0.10
    """Rows without options."""


@dataclass(frozen=True)
class ToyShard:
    """One shard to write: its rows in order, the clips that they name, and how many rows there are of each kind."""

    rows: list[Row]
    clips: list[ClipJob]
    corrupt_clips: list[Path]
    kinds: Counter[str]
    faults: Counter[str]

    def write(self, path: Path) -> None:
        """Writes the parquet file and the clip files that cannot be read; the good clips are for `write_clips`."""
        pl.DataFrame(self.rows, schema=SHARD_SCHEMA).write_parquet(path)
        for clip in self.corrupt_clips:
            clip.write_bytes(CORRUPT_CLIP)


def draw_shard(n: int, mix: Mix, faults: int, clip_folder: Path, rng: np.random.Generator) -> ToyShard:
    """A shard of n rows on train boards, of which `faults` of every kind are broken and one clip has a pre-roll."""
    good, clips, kinds = _draw_good(n - faults * len(FAULTS), mix, clip_folder, rng)
    rows, corrupt = list(good), []
    for name, fault in FAULTS.items():
        for _ in range(faults):
            clip = clip_name(rng)
            donor = good[rng.integers(len(good))]
            rows.insert(int(rng.integers(len(rows) + 1)), spoiled(donor, fault, clip))
            if name == "corrupt clip":
                corrupt.append(clip_folder / clip)
    return ToyShard(rows, clips, corrupt, kinds, Counter(dict.fromkeys(FAULTS, faults)))


def clip_name(rng: np.random.Generator) -> str:
    """A clip name as TwiFF's are: 11 characters of a video id, and the clip's number in that video."""
    return f"{''.join(rng.choice(ID_CHARACTERS, 11))}_{rng.integers(4)}.mp4"


def later_event(question: Questions, rng: np.random.Generator) -> tuple[int, int] | None:
    """A later step and its colour id for one question, to be stated in words.

    The colour is none of the options: a rule that strikes out the stated colour would gain from it.  None if the board
    has no such step.
    """
    later = range(int(question.hop[0]) + 1, LAST_VISIBLE_STEP + 1)
    colours = [(step, int(question.boards.colour_at(step)[0])) for step in later]
    allowed = [(step, colour) for step, colour in colours if colour not in question.options[0]]
    return allowed[rng.integers(len(allowed))] if allowed else None


def trajectory_row(
    video: str, category: str, question: Questions, event: tuple[int, int] | None, open_ended: bool
) -> Row:
    """One question (a Questions of length 1) as a TwiFF row; a question about step 0 imagines the next frame."""
    hop, options = int(question.hop[0]), question.options[0]
    text = question_text(category, hop, event) + ("" if open_ended else options_text(options))
    imagined = max(hop, 1)
    thoughts = " ".join(f"{thought} <rimage>" for thought in reasoning(int(question.boards.direction[0]), imagined))
    return {
        "video": video,
        "question": f"frame_1\n<image>\n{text}",
        "answer": f"{thoughts} <ans>{COLOURS[question.answer[0]]}</ans>",
        "question_images_index": [1],
        "reasoning_images_index": list(range(2, imagined + 2)),
        "meta_data": {
            "Process": "A marble rolls along a ring of coloured tiles.",
            "Summary": "The marble moves one tile at a time.",
            "classification": category.capitalize(),
            "start": "0:00:00.000",
            "end": f"0:00:{FRAMES / RATE:06.3f}",
        },
    }


def clip_job(path: Path, boards: Boards, i: int, **filming: Any) -> ClipJob:
    """The job of writing the clip of board i."""
    return ClipJob(path, tuple(map(int, boards.tiles[i])), int(boards.pos[i]), int(boards.direction[i]), **filming)


def _draw_good(
    n: int, mix: Mix, folder: Path, rng: np.random.Generator
) -> tuple[list[Row], list[ClipJob], Counter[str]]:
    """n good rows, one or two on each clip."""
    rows: list[Row] = []
    clips: list[ClipJob] = []
    kinds: Counter[str] = Counter()
    while len(rows) < n:
        boards = draw_boards(n, rng, "train")
        fogged = rng.random(n) < mix.ambiguous
        easy = (rng.random((n, 2)) < mix.easy / (1 - mix.ambiguous)) & ~fogged[:, None]
        hops = np.where(easy, 0, rng.permuted(np.tile(HOPS, (n, 1)), axis=1)[:, :2])
        categories = rng.permuted(np.tile(CATEGORIES, (n, 1)), axis=1)[:, :2]
        candidates = [ask(boards, hops[:, k], rng) for k in range(2)]
        for i in range(n):
            questions = [(categories[i, k], posed[i : i + 1]) for k, (posed, ok) in enumerate(candidates) if ok[i]]
            questions = questions[: n - len(rows)]
            if not questions:
                continue
            video = clip_name(rng)
            level = float(rng.uniform(LEAST_FOG, 1)) if fogged[i] else 0.0
            clips.append(clip_job(folder / video, boards, i, fog_level=level, pre_roll=not clips))
            for category, question in questions:
                row, row_kinds = _row_of_kind(video, str(category), question, mix, rng)
                rows.append(row)
                kinds.update([*row_kinds, "ambiguous" if fogged[i] else "easy" if question.hop[0] == 0 else "hard"])
    return rows, clips, kinds


def _row_of_kind(
    video: str, category: str, question: Questions, mix: Mix, rng: np.random.Generator
) -> tuple[Row, Sequence[str]]:
    event = later_event(question, rng) if question.hop[0] and rng.random() < mix.interpolation else None
    open_ended = bool(rng.random() < mix.open_ended)
    kinds = [name for name, holds in (("interpolation", event is not None), ("open-ended", open_ended)) if holds]
    return trajectory_row(video, category, question, event, open_ended), kinds
