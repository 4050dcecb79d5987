"""Rows of the toy world with real clips, and small recipes: what the tests of model, training and answering share."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from assets.toyworld.clips import FRAMES, ClipJob, write_batch
from training.model.latent_config import LatentConfig
from training.recipes import RlRecipe, SftRecipe
from training.tiny import world

LATENT_CONFIG = LatentConfig(image_tokens=(4, 16), max_latents=4, span_end="fixed", system_prompt=None)


def toy_rows(folder: Path, hops: list[int], seed: int = 0, split: world.Split = "train") -> list[dict[str, Any]]:
    """One row per hop, each with a clip of its own: TrajectoryTable's columns, path, frame_count and reader."""
    rng = np.random.default_rng(seed)
    parts = [world.draw_questions(1, rng, split, hops=[hop]) for hop in hops]
    rows, clips = [], []
    for number, (hop, question) in enumerate(zip(hops, parts, strict=True)):
        name = f"clip{seed}_{number:03d}.mp4"
        category = world.CATEGORIES[number % 3]
        board = question.boards
        clips.append(ClipJob(folder / name, tuple(board.tiles[0].tolist()), int(board.pos[0]), int(board.direction[0])))
        rows.append(
            {
                "row_id": f"{seed:08x}{number:08x}",
                "source": "toy",
                "video": name,
                "question": f"frame_1\n<image>\n{world.question_text(category, hop)}"
                + world.options_text(question.options[0].tolist()),
                "reasoning": [*world.reasoning(int(board.direction[0]), hop), ""],
                "answer": world.COLOURS[question.answer[0]],
                "observed": [1],
                "future": list(range(2, hop + 2)),
                "category": category,
                "start": None,
                "end": None,
                "path": str(folder / name),
                "frame_count": FRAMES,
                "reader": "sequential",
            }
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_batch(clips)
    return rows


def write_rows(rows: list[dict[str, Any]], path: Path) -> Path:
    """The rows as the parquet table that the training programs read."""
    pl.DataFrame(rows).write_parquet(path)
    return path


def sft_recipe(**changes: Any) -> SftRecipe:
    """Four rows a step, all with spans, no scheduled sampling."""
    defaults: dict[str, Any] = {
        "name": "test", "latent_config": LATENT_CONFIG, "learning_rate": 1e-3, "max_steps": 4, "global_batch_size": 4,
        "per_device_train_batch_size": 64, "latent_weight": 1.0, "cache_gib": 0.1,
    }  # fmt: skip
    return SftRecipe(**{**defaults, **changes})


def rl_recipe(**changes: Any) -> RlRecipe:
    """Four prompts of four answers, two optimiser steps on each rollout batch."""
    defaults: dict[str, Any] = {
        "name": "test", "learning_rate": 1e-3, "max_steps": 2, "prompts_per_batch": 4, "num_generations": 4,
        "per_device_train_batch_size": 64, "max_new_tokens": 40, "temperature": 1.0, "top_p": 1.0, "min_spans": 0,
        "parser": "option_text", "beta": 0.0, "max_resample_rounds": 1, "dynamic_sampling_range": (0.0, 1.0),
        "cache_gib": 0.1,
    }  # fmt: skip
    return RlRecipe(**{**defaults, **changes})
