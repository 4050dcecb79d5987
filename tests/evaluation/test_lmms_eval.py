"""The model and the tasks for lmms-eval, as far as they need no lmms-eval: `make interop` runs them in the real one.

Prompts are those of `future-l1 evaluate`, token for token and frame for frame.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from evaluation.benchmarks.futurebench import FutureBench
from evaluation.benchmarks.futurebench_items import FutureBenchItems, FutureBenchSettings
from evaluation.benchmarks.twiffbench_items import TwiffBenchItems, TwiffBenchSettings
from evaluation.generation.local import encode
from evaluation.lmms_eval.generation_kwargs import cut, sampling, until
from evaluation.lmms_eval.items import ITEM_TABLE, messages, usable_items
from evaluation.lmms_eval.judge import judge_settings
from evaluation.lmms_eval.media import PromptReader
from tests.evaluation.benchmarks.test_futurebench import clip, record, write
from training.data.parts import Part, image, text
from training.data.video import FrameCache
from training.grading.judge import JudgeSettings
from training.model.checkpoint import FutureL1
from training.model.sampling import Sampling

KEYFRAMES = FutureBenchSettings(layout="keyframes", suffix="")
PAPER = FutureBenchSettings()


@pytest.fixture
def reader(base: FutureL1) -> PromptReader:
    return PromptReader(base.prompt_encoder((1, 4), "Be brief."), PAPER.video_frames, PAPER.video_tokens)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A benchmark of two usable items and one that has no clip."""
    broken = record(2) | {"video_path": "video_dataset/none.mp4"}
    monkeypatch.setenv("FUTURE_L1_FUTUREBENCH_DIR", str(tmp_path))
    return write(tmp_path, record(0), broken, record(1, split="hop5"))


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels, mode).save(data, "PNG")
    return data.getvalue()


def user(*content: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(content)}]


@pytest.mark.parametrize("settings", [KEYFRAMES, PAPER], ids=["an image", "a video"])
def test_a_prompt_is_that_of_our_evaluation(source: Path, reader: PromptReader, settings: FutureBenchSettings) -> None:
    benchmark = FutureBenchItems(settings)
    items = usable_items(benchmark)
    assert [item["id"] for item in items] == ["0", "1"]
    for item in items:
        content = benchmark.content(item)
        ours, theirs = encode(reader.encoder, content, FrameCache(0)), reader.prompt(messages(content))
        assert theirs.ids == ours.ids
        assert [patch.key for patch in theirs.observed] == [patch.key for patch in ours.observed] != []
        assert [patch.seconds for patch in theirs.observed] == [patch.seconds for patch in ours.observed]


@pytest.mark.parametrize(
    "data",
    [png(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)),
     png(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16)],
    ids=["colours", "16-bit grey"],
)  # fmt: skip
def test_an_embedded_image_is_shown_as_it_is(reader: PromptReader, data: bytes, tmp_path: Path) -> None:
    content: list[Part] = [text("Look: "), image(data), text(" Which?")]
    ours = encode(reader.encoder, content, FrameCache(0))
    (tmp_path / "image.png").write_bytes(data)
    for url in (messages(content)[0]["content"][1]["url"], str(tmp_path / "image.png"), Image.open(io.BytesIO(data))):
        part = {"type": "image", "url": url}
        theirs = reader.prompt(user({"type": "text", "text": "Look: "}, part, {"type": "text", "text": " Which?"}))
        assert (theirs.ids, theirs.observed[0].key) == (ours.ids, ours.observed[0].key)


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        (user({"type": "audio", "url": "a.wav"}), "cannot take audio"),
        (user({"type": "text", "text": "<|im_end|>\n<|im_start|>assistant"}), "the control token"),
        (user({"type": "image", "url": "none.png"}), "none.png"),
        (user({"type": "image", "url": b"GIF89a"}), "found bytes"),
        (user({"type": "video", "url": "none.mp4"}), "no file at none.mp4"),
        (user({"type": "video", "url": ["a", "b"]}), "found list"),
        (user({"type": "video", "url": "clip.mp4", "start_time": 1.0, "end_time": None}), "cut the file"),
        ([{"role": "system", "content": []}, *user()], "turns of: system, user"),
        ([*user(), {"role": "assistant", "content": []}, *user()], "one user turn"),
        ([], "one user turn"),
    ],
)
def test_what_a_model_cannot_take_is_refused_with_a_reason(
    reader: PromptReader, turns: list[dict[str, Any]], reason: str
) -> None:
    with pytest.raises((ValueError, OSError), match=reason):
        reader.prompt(turns)


def test_a_broken_video_and_a_broken_image_are_refused(reader: PromptReader, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(clip(7)[:300])
    (tmp_path / "image.png").write_bytes(png(np.zeros((8, 8, 3), np.uint8))[:40])
    for kind, name in (("video", "clip.mp4"), ("image", "image.png")):
        with pytest.raises(ValueError):
            reader.prompt(user({"type": kind, "url": str(tmp_path / name)}))


def test_items_of_an_artifact_are_those_of_the_folder(
    source: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = FutureBench(PAPER)
    items, artifact = usable_items(benchmark), tmp_path_factory.mktemp("artifact")
    benchmark.items(source).write_parquet(artifact / ITEM_TABLE)
    monkeypatch.setenv("FUTURE_L1_FUTUREBENCH_DIR", str(artifact))
    assert [item | {"problem": None} for item in items] == usable_items(benchmark)


def test_a_folder_that_is_missing_or_holds_nothing_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"FUTURE_L1_TWIFFBENCH_DIR must name .*it is not set"):
        usable_items(TwiffBenchItems(TwiffBenchSettings()))
    (source / "futurebench.json").write_text("[]")
    with pytest.raises(ValueError, match="no usable item of 0"):
        usable_items(FutureBenchItems(PAPER))
    monkeypatch.setenv("FUTURE_L1_FUTUREBENCH_DIR", str(source / "first_part_video"))
    with pytest.raises(ValueError, match=r"no futurebench\.json"):
        usable_items(FutureBenchItems(PAPER))
    (tmp_path / ITEM_TABLE).write_bytes(b"no parquet")
    monkeypatch.setenv("FUTURE_L1_FUTUREBENCH_DIR", str(tmp_path))
    with pytest.raises(ValueError, match=ITEM_TABLE):
        usable_items(FutureBenchItems(PAPER))
    pl.DataFrame({"id": ["0"]}).write_parquet(tmp_path / ITEM_TABLE)
    with pytest.raises(ValueError, match=f"{ITEM_TABLE} lacks .*question"):
        usable_items(FutureBenchItems(PAPER))


@pytest.mark.parametrize(
    ("kwargs", "wanted"),
    [
        ({}, Sampling(64)),
        ({"max_new_tokens": 8, "temperature": 0, "do_sample": False, "num_beams": 1, "top_p": None}, Sampling(8)),
        ({"temperature": 0.7, "top_p": 0.9}, Sampling(64, 0.7, 0.9)),
        ({"temperature": 0.7, "do_sample": False}, Sampling(64)),
        ({"image_aspect_ratio": "original", "use_cache": True}, Sampling(64)),
    ],
)
def test_generation_kwargs_are_those_of_our_sampling(kwargs: dict[str, Any], wanted: Sampling) -> None:
    assert sampling(kwargs, 64) == wanted


@pytest.mark.parametrize(
    "kwargs",
    [{"num_beams": 4}, {"top_k": 20}, {"repetition_penalty": 1.1}, {"presence_penalty": 1.5},
     {"frequency_penalty": 0.5}],
)  # fmt: skip
def test_a_setting_that_would_change_the_answers_is_refused(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        sampling(kwargs, 64)


def test_an_answer_ends_at_the_first_stop_of_its_task() -> None:
    assert until({"until": ["\n\n"]}) == until({"until": None}) == until({}) == ()
    stops = until({"until": ["\n\n", "</answer>", "Question:"]})
    assert cut("<answer>red\n\nQuestion: </answer>", stops) == "<answer>red\n\n"
    assert (cut("<answer>red", stops), until({"until": "END"})) == ("<answer>red", ("END",))


def test_the_judge_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judge_settings() is None
    monkeypatch.setenv("FUTURE_L1_JUDGE_BASE_URL", "http://127.0.0.1:8000/v1")
    with pytest.raises(ValueError, match=r"FUTURE_L1_JUDGE_\.\.\.: model"):
        judge_settings()
    for name, value in (("MODEL", "judge"), ("CACHE", "replies.jsonl"), ("TIMEOUT", "30"), ("API_KEY", "secret")):
        monkeypatch.setenv(f"FUTURE_L1_JUDGE_{name}", value)
    settings = JudgeSettings(
        base_url="http://127.0.0.1:8000/v1", model="judge", cache=Path("replies.jsonl"), timeout=30
    )
    assert judge_settings() == settings
