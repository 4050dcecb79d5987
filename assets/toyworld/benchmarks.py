"""The toy world's benchmarks, as FutureBench and TwiFF-Bench are laid out, on boards of the test split."""

import io
import json
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from assets.toyworld.clips import ClipJob
from assets.toyworld.trajectories import SHARD_SCHEMA, clip_job, clip_name, later_event, trajectory_row
from training.tiny.world import CATEGORIES, COLOURS, Questions, draw_questions, question_text

FUTUREBENCH_HOPS = {"hop1": (1,), "hop2": (2,), "hop3": (3,), "hop5": (1, 2, 3)}  # hop5 is interpolation
IMAGES = pl.List(pl.Struct({"bytes": pl.Binary, "path": pl.String}))
TWIFFBENCH_SCHEMA = SHARD_SCHEMA | {"question_images": IMAGES, "reasoning_images": IMAGES}
TWIFFBENCH_SHARDS = 4


def write_futurebench(folder: Path, per_split: int, rng: np.random.Generator) -> list[ClipJob]:
    """Writes `futurebench.json`; returns the clips of the observed parts (`first_part_video/`) to be encoded.

    `video_path` names the full video under `video_dataset/`, as in the release; its observed part has the same name.
    """
    items, clips = [], []
    for split, hops in FUTUREBENCH_HOPS.items():
        questions, known = _interpolation(per_split, rng) if split == "hop5" else (
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
                        "Question": question_text(str(rng.choice(CATEGORIES)), int(questions.hop[i]), known[i]),
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
    """n questions whose later event can be told without naming an option."""
    drawn = draw_questions(4 * n, rng, "test", FUTUREBENCH_HOPS["hop5"])
    known = [later_event(drawn[i : i + 1], rng) for i in range(len(drawn))]
    kept = np.flatnonzero([event is not None for event in known])[:n]
    if len(kept) < n:
        raise AssertionError(f"only {len(kept)} of {4 * n} boards tell a later event; {n} are needed")
    return drawn[kept], [known[i] for i in kept]


def _embedded(question: Questions, step: int) -> dict[str, bytes | str]:
    """One frame as Hugging Face embeds an image."""
    buffer = io.BytesIO()
    Image.fromarray(question.boards.frames(step)[0]).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": f"step_{step}.png"}
