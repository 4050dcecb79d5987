"""Writes the demo's whole source, as the real ones are laid out; nothing downstream knows the difference.

clips/*.mp4                    H.264 clips that the rows name
twiff/train-*.parquet          TwiFF-2.7M rows, among them easy, ambiguous and broken ones
futurebench/futurebench.json   with futurebench/first_part_video/*.mp4
twiffbench/test-*.parquet      with embedded images; both benchmarks are on boards of the test split
SOURCE.json                    how many rows there are of each kind, and how far simple rules get
"""

import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image
from pydantic import NonNegativeInt, PositiveInt

from assets.toyworld.clips import ClipJob, write_clips
from assets.toyworld.trajectories import (
    SHARD_SCHEMA,
    Mix,
    clip_job,
    clip_name,
    draw_shard,
    later_event,
    trajectory_row,
)
from training.tiny.world import CATEGORIES, COLOURS, Questions, draw_questions, question_text, rule_baselines

FUTUREBENCH_HOPS = {"hop1": (1,), "hop2": (2,), "hop3": (3,), "hop5": (1, 2, 3)}  # hop5 is interpolation
IMAGES = pl.List(pl.Struct({"bytes": pl.Binary, "path": pl.String}))
TWIFFBENCH_SCHEMA = SHARD_SCHEMA | {"question_images": IMAGES, "reasoning_images": IMAGES}
TWIFFBENCH_SHARDS = 4
RULE_QUESTIONS = 3000
REPORT = "SOURCE.json"
STREAMS = {"rows": 0, "futurebench": 1, "twiffbench": 2, "rules": 3}  # one random stream for each part


@dataclass(frozen=True)
class SourceSizes:
    """Numbers of shards and rows, the mix of row kinds, broken rows of a kind and shard, benchmark items."""

    shards: PositiveInt = 3
    """The number of shards."""
    rows_per_shard: PositiveInt = 1700
    """Rows of a shard."""
    mix: Mix = field(default_factory=Mix)
    """The shares of rows of each kind."""
    faults_per_shard: NonNegativeInt = 1
    """Broken rows of each kind in a shard."""
    futurebench_per_split: PositiveInt = 200
    """FutureBench items of a split."""
    twiffbench: PositiveInt = 180
    """TwiFF-Bench items."""


def write_source(
    root: Path, seed: int, sizes: SourceSizes, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any]:
    """Writes the source under `root`, the same bytes for the same seed and sizes; returns what `REPORT` holds: rows by
    kind, broken rows by fault, clips, and the accuracy of simple rules on test boards.

    Training boards are from the split "train", benchmark boards from "test".  `progress(done, total)` counts clips.
    """
    rng = {name: np.random.default_rng([seed, stream]) for name, stream in STREAMS.items()}
    for folder in ("clips", "twiff"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    clips, kinds, faults = [], Counter[str](), Counter[str]()
    for i in range(sizes.shards):
        shard = draw_shard(sizes.rows_per_shard, sizes.mix, sizes.faults_per_shard, root / "clips", rng["rows"])
        shard.write(root / "twiff" / f"train-{i:05d}-of-{sizes.shards:05d}.parquet")
        clips += shard.clips
        kinds += shard.kinds
        faults += shard.faults
    observed = write_futurebench(root / "futurebench", sizes.futurebench_per_split, rng["futurebench"])
    write_twiffbench(root / "twiffbench", sizes.twiffbench, sizes.mix.open_ended, rng["twiffbench"])
    write_clips(clips + observed, progress)
    report = {
        "seed": seed,
        "rows": sizes.shards * sizes.rows_per_shard,
        "kinds": dict(sorted(kinds.items())),
        "faults": dict(sorted(faults.items())),
        "clips": len(clips),
        "benchmark_clips": len(observed),
        "rules": rule_baselines(draw_questions(RULE_QUESTIONS, rng["rules"], "test")),
    }
    (root / REPORT).write_text(json.dumps(report, indent=1) + "\n")
    return report


def write_futurebench(folder: Path, per_split: int, rng: np.random.Generator) -> list[ClipJob]:
    """Writes `futurebench.json`; returns the clips of the observed parts (`first_part_video/`) to be encoded.

    `video_path` names the full video under `video_dataset/`, as in the release; its observed part has the same name.
    """
    items, clips = [], []
    for split, hops in FUTUREBENCH_HOPS.items():
        questions, events = _interpolation(per_split, rng) if split == "hop5" else (
            draw_questions(per_split, rng, "test", hops), [None] * per_split
        )  # fmt: skip
        for i in range(per_split):
            name = f"{split}_{i:04d}.mp4"
            answer = int(np.flatnonzero(questions.options[i] == questions.answer[i])[0])
            items.append(
                {
                    "id": f"{split}-{i:04d}",
                    "video_path": f"video_dataset/{name}",
                    "question_type": split,
                    "qa": {
                        "Question": question_text(str(rng.choice(CATEGORIES)), int(questions.hop[i]), events[i]),
                        "Options": {
                            letter: COLOURS[colour] for letter, colour in zip("ABCD", questions.options[i], strict=True)
                        },
                        "Answer": "ABCD"[answer],
                    },
                }
            )
            clips.append(clip_job(folder / "first_part_video" / name, questions.boards, i, observed_only=True))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "futurebench.json").write_text(json.dumps(items, indent=1) + "\n")
    return clips


def write_twiffbench(folder: Path, n: int, open_ended: float, rng: np.random.Generator) -> None:
    """Writes `test-*.parquet`: n items, a third of each category, with the frames embedded as PNG."""
    questions = draw_questions(n, rng, "test")
    rows = []
    for i in range(n):
        question = questions[i : i + 1]
        category = CATEGORIES[i % len(CATEGORIES)]
        row = trajectory_row(clip_name(rng), category, question, None, bool(rng.random() < open_ended))
        steps = [k - 1 for k in row["reasoning_images_index"]]
        images = {"question_images": [_embedded(question, 0)]}
        rows.append(row | images | {"reasoning_images": [_embedded(question, step) for step in steps]})
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(TWIFFBENCH_SHARDS):
        shard = rows[k * n // TWIFFBENCH_SHARDS : (k + 1) * n // TWIFFBENCH_SHARDS]
        name = f"test-{k:05d}-of-{TWIFFBENCH_SHARDS:05d}.parquet"
        pl.DataFrame(shard, schema=TWIFFBENCH_SCHEMA).write_parquet(folder / name)


def _interpolation(n: int, rng: np.random.Generator) -> tuple[Questions, list[tuple[int, int] | None]]:
    """n questions whose later event can be stated without naming an option."""
    candidates = draw_questions(4 * n, rng, "test", FUTUREBENCH_HOPS["hop5"])
    events = [later_event(candidates[i : i + 1], rng) for i in range(len(candidates))]
    kept = np.flatnonzero([event is not None for event in events])[:n]
    if len(kept) < n:
        raise AssertionError(f"only {len(kept)} of {4 * n} boards have a later event to state; {n} are needed")
    return candidates[kept], [events[i] for i in kept]


def _embedded(question: Questions, step: int) -> dict[str, bytes | str]:
    """One frame as Hugging Face embeds an image."""
    buffer = io.BytesIO()
    Image.fromarray(question.boards.frames(step)[0]).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": f"step_{step}.png"}
