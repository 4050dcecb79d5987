"""FutureBench in the paper's layout, answered by the tiny base: videos that can be shown, and one that cannot."""

from pathlib import Path

import numpy as np
import polars as pl

from assets.toyworld.clips import write_batch
from assets.toyworld.source import write_futurebench
from evaluation.benchmarks.benchmark import StoredAnswers
from evaluation.benchmarks.futurebench import FutureBench
from evaluation.benchmarks.futurebench_items import FutureBenchSettings
from evaluation.generate import main
from evaluation.generation.config import GenerationConfig
from evaluation.generation.jobs import AnswerJob, GenerateConfig
from training.data.parts import text, video
from training.data.prompts import prompt_frame
from training.runtime.programs import Reporter
from training.tiny import BASE


def answers(out: Path, prompts: pl.DataFrame) -> pl.DataFrame:
    out.mkdir()
    prompts.write_parquet(out / "prompts.parquet")
    job = AnswerJob(
        name="answers", checkpoint=BASE, prompts=out / "prompts.parquet",
        generation=GenerationConfig(max_new_tokens=8, batch_size=4, image_tokens=(4, 16)),
    )  # fmt: skip
    main(GenerateConfig(out=out, device="cpu", jobs=[job]), Reporter(out, quiet=True))
    return pl.read_parquet(out / "answers.parquet")


def test_every_item_is_answered_from_its_video(tmp_path: Path) -> None:
    benchmark = FutureBench(FutureBenchSettings(layout="video32", parser="option_text", suffix=""))
    clips = write_futurebench(tmp_path, 3, np.random.default_rng(0))
    for folder in {clip.path.parent for clip in clips}:
        folder.mkdir(parents=True, exist_ok=True)
    write_batch(clips)
    table = benchmark.items(tmp_path)
    stored = StoredAnswers(answers(tmp_path / "out", benchmark.prompts(table)))
    report = benchmark.report(table, stored, benchmark.grade(table, stored))
    assert (report["items"], report["answered"], report["missing"]) == (12, 12, 0)
    assert all(stored.answers["text"].str.len_chars() > 0)


def test_a_video_that_is_gone_is_listed_and_stops_no_other(tmp_path: Path) -> None:
    (clip,) = write_futurebench(tmp_path, 1, np.random.default_rng(0))[:1]
    clip.path.parent.mkdir()
    write_batch([clip])
    question = text("Which colour is the marble on at step 1?")
    rows = [("kept", [video(clip.path, [0, 3]), question]), ("gone", [video(tmp_path / "gone.mp4", [0, 3]), question])]
    answered = answers(tmp_path / "out", prompt_frame(rows))
    assert answered["prompt_id"].to_list() == ["kept"]
    failed = pl.read_parquet(tmp_path / "out" / "answers.failed")
    assert failed["prompt_id"].to_list() == ["gone"] and "gone.mp4" in failed["reason"][0]
