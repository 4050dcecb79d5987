"""The retrieval program on the toy world's benchmark: latents that are right by construction, or hold nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from assets.toyworld.source import write_twiffbench
from evaluation.benchmarks.twiffbench import TwiffBench
from evaluation.benchmarks.twiffbench_items import TwiffBenchSettings
from evaluation.generation.local import encode
from evaluation.latent_retrieval import LatentRetrievalConfig, LatentRetrievalJob, main
from evaluation.latents.frame_pool import (
    FrameEncoder,
    FramePool,
    ItemEntry,
    decoded,
    frame_cache,
    list_items,
    read_items,
)
from evaluation.latents.retrieval import UNANSWERED, UNDECODABLE, is_held_out, sample_pictured
from tests.evaluation.answers import answer_table
from training.data.prompts import ANSWERS
from training.data.video import FrameCache
from training.model.checkpoint import FutureL1, load
from training.model.decode import decode
from training.model.rows import RowReader
from training.model.sampling import Sampling
from training.runtime.programs import Reporter

N = 40


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("twiffbench")
    write_twiffbench(folder, N, 0.2, np.random.default_rng(3))
    path = folder / "items.parquet"
    TwiffBench(TwiffBenchSettings()).items(folder).write_parquet(path)
    return path


@pytest.fixture(scope="module")
def encoder(sft_model: FutureL1) -> FrameEncoder:
    return FrameEncoder(sft_model)


def write_answers(latents: dict[str, list[np.ndarray]], path: Path) -> Path:
    """An answer table whose answers' spans are these vectors."""
    table = answer_table(dict.fromkeys(latents, "<answer>red</answer>"))
    spans = [[len(span) for span in latents[name]] for name in table["prompt_id"]]
    stored = [
        np.concatenate(latents[name]).astype("<f2").tobytes() if sum(sizes) else None
        for name, sizes in zip(table["prompt_id"], spans, strict=True)
    ]
    columns = [pl.Series("spans", spans, pl.List(pl.Int64)), pl.Series("latents", stored, pl.Binary)]
    table.with_columns(columns).write_parquet(path)
    return path


def features_of(items: Path, encoder: FrameEncoder) -> dict[str, tuple[list[np.ndarray], list[np.ndarray]]]:
    """Features of each item's observed and future frames."""
    encoded = {item.id: encoder.item(item) for item in read_items(items)}
    return {name: tuple([f.features for f in frames] for frames in both) for name, both in encoded.items()}  # type: ignore[misc]


def retrieved(out: Path, items: Path, checkpoint: Path, answers: Path, **changes: Any) -> dict[str, Any]:
    job = LatentRetrievalJob(name="m", model_kind="sft", checkpoint=checkpoint, answers=answers)
    main(LatentRetrievalConfig(**{"out": out, "device": "cpu", "items": items, "jobs": [job], "others": 10, **changes}),
         Reporter(out, quiet=True))  # fmt: skip
    return json.loads((out / "m" / "latent_retrieval.json").read_text())


# ---- what is known beforehand


def test_the_true_frames_themselves_are_found_and_painted(
    items: Path, encoder: FrameEncoder, sft_checkpoint: Path, tmp_path: Path
) -> None:
    features = features_of(items, encoder)
    answers = write_answers({name: future for name, (_, future) in features.items()}, tmp_path / "answers.parquet")
    report = retrieved(tmp_path, items, sft_checkpoint, answers)
    spans = sum(len(future) for _, future in features.values())
    assert report["n_spans"] == report["true_frame"]["top1"]["correct"] == report["closer_to_true"]["correct"] == spans
    assert report["n_items"] == N and report["left_out"] == {}
    assert report["skill"]["mean"] > 0.999
    assert report["candidates"]["other_clips"] == 10
    assert report["observed_frame"]["top1"]["accuracy"] < 0.9
    assert "show what happens next" in report["sentence"]
    assert report["readout"]["r2"] is not None and report["readout"]["rows"] == 4 * sum(
        not is_held_out(entry.clip, 0) for entry in list_items(items)
    )
    with Image.open(tmp_path / "m" / "retrieved_frames.png") as page:
        assert page.format == "PNG" and min(page.size) > 300


def test_a_copy_of_the_observed_frame_is_the_baseline(
    items: Path, encoder: FrameEncoder, sft_checkpoint: Path, tmp_path: Path
) -> None:
    features = features_of(items, encoder)
    answers = write_answers(
        {name: [observed[-1]] * len(future) for name, (observed, future) in features.items()}, tmp_path / "a.parquet"
    )
    report = retrieved(tmp_path, items, sft_checkpoint, answers)
    assert report["true_frame"]["top1"]["correct"] == report["observed_frame"]["top1"]["correct"]
    assert report["closer_to_true"]["correct"] == 0
    assert report["skill"]["mean"] == pytest.approx(0, abs=1e-3)
    assert "show what happens next" not in report["sentence"]


def test_noise_is_chance(items: Path, encoder: FrameEncoder, sft_checkpoint: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = {
        name: [rng.normal(size=f.shape) for f in future] for name, (_, future) in features_of(items, encoder).items()
    }
    report = retrieved(tmp_path, items, sft_checkpoint, write_answers(noise, tmp_path / "a.parquet"))
    assert report["true_frame"]["top1"]["interval"][0] < report["chance"]["top1"] + 0.1
    assert report["skill"]["mean"] < 0


def test_what_was_really_decoded_is_scored(
    items: Path, sft_model: FutureL1, sft_checkpoint: Path, tmp_path: Path
) -> None:
    """The answers of a checkpoint, by the decoder: the latents of span k stand beside reasoning image k."""
    assert sft_model.latent_config is not None
    prompts = TwiffBench(TwiffBenchSettings(layout="interleaved")).prompts(pl.read_parquet(items))
    encoder = sft_model.encoder(sft_model.latent_config)
    rows = [encode(encoder, content, FrameCache(0)) for content in prompts["content"]]
    decoded_answers = decode(
        sft_model.model, sft_model.vision(), sft_model.tokens, rows, Sampling(60), sft_model.spans, [[0]] * N
    )
    latents = {}
    for name, answer in zip(prompts["prompt_id"], decoded_answers.completions(sft_model.tokens), strict=True):
        sizes = sft_model.tokens.span_sizes(answer.ids)
        latents[name] = [part.numpy() for part in answer.latents.split(sizes)] if sizes else []
    report = retrieved(tmp_path, items, sft_checkpoint, write_answers(latents, tmp_path / "a.parquet"))
    depth = {entry.id: entry.frames for entry in list_items(items)}
    spans = {name: sum(len(span) > 0 for span in all_spans[: depth[name]]) for name, all_spans in latents.items()}
    assert report["n_spans"] == sum(spans.values()) > 20
    assert report["left_out"].get("answers_without_latents", 0) == sum(not spans for spans in latents.values())


# ---- what cannot be compared


def test_what_cannot_be_compared_is_counted(
    items: Path, encoder: FrameEncoder, sft_checkpoint: Path, tmp_path: Path
) -> None:
    features = {name: list(future) for name, (_, future) in features_of(items, encoder).items()}
    names = list(features)
    missing, silent, eager, empty, broken = names[:5]
    del features[missing]
    features[silent] = []
    features[eager] = [*features[eager], features[eager][0], features[eager][0]]
    features[empty] = [features[empty][0][:0], *features[empty][1:]]
    spoiled = pl.read_parquet(items).with_columns(
        pl.when(pl.col("id") == broken)
        .then(pl.lit([b"no image"]))
        .otherwise("question_images")
        .alias("question_images")
    )
    spoiled.write_parquet(tmp_path / "items.parquet")
    report = retrieved(
        tmp_path, tmp_path / "items.parquet", sft_checkpoint, write_answers(features, tmp_path / "a.parquet")
    )
    lacking = 1 + (sum(map(len, features[empty])) == 0)
    assert report["left_out"] == {
        UNANSWERED: 1, UNDECODABLE: 1, "answers_without_latents": lacking, "spans_beyond_the_frames": 2,
        "spans_without_latents": 1,
    }  # fmt: skip
    left = sum(len(future) for name, future in features.items() if name != broken) - 2 - 1
    assert report["n_spans"] == report["true_frame"]["top1"]["correct"] == left


def test_a_model_without_latents_has_a_report_all_the_same(items: Path, sft_checkpoint: Path, tmp_path: Path) -> None:
    answers = write_answers({entry.id: [] for entry in list_items(items)}, tmp_path / "a.parquet")
    report = retrieved(tmp_path, items, sft_checkpoint, answers)
    assert (report["n_spans"], report["left_out"]) == (0, {"answers_without_latents": N})
    assert (tmp_path / "m" / "retrieved_frames.png").is_file()


def test_answers_that_cannot_be_read_are_named(items: Path, sft_checkpoint: Path, tmp_path: Path) -> None:
    name = list_items(items)[0].id
    narrow = write_answers({name: [np.zeros((4, 7))]}, tmp_path / "narrow.parquet")
    with pytest.raises(ValueError, match=f"'{name}' has latents of 7 components.*another model"):
        retrieved(tmp_path, items, sft_checkpoint, narrow)
    plain = tmp_path / "plain.parquet"
    pl.DataFrame([], schema=ANSWERS).write_parquet(plain)
    with pytest.raises(ValueError, match=r"no column latents.*keep_latents"):
        retrieved(tmp_path, items, sft_checkpoint, plain)


# ---- frames of other clips


def test_the_pool_has_one_frame_of_a_clip_and_none_of_the_item(items: Path, encoder: FrameEncoder) -> None:
    entries = list_items(items)
    pool, cache = FramePool(items, entries, 5, seed=0), frame_cache(2**28)
    chosen = {entry.clip: pool.beside(encoder, entry.clip, (2, 2), cache) for entry in entries}
    assert all(len(frames) == 5 == len({f.key for f in frames}) for frames in chosen.values())
    for item in read_items(items):
        item_keys = {frame.key for frames in encoder.item(item) for frame in frames}
        assert item_keys.isdisjoint(frame.key for frame in chosen[item.clip])
    assert len({tuple(f.key for f in frames) for frames in chosen.values()}) == 6, "one clip of the pool is left out"
    every = FramePool(items, entries, 10_000, seed=0).beside(encoder, entries[0].clip, (2, 2), cache=frame_cache(0))
    assert len(every) == N - 1


def test_frames_of_another_shape_are_cropped_to_the_grid(encoder: FrameEncoder) -> None:
    wide = np.zeros((40, 160, 3), np.uint8)
    wide[:, 60:100] = 200  # its middle square
    [alone], [beside] = encoder.frames([wide]), encoder.frames([wide], (2, 2))
    assert alone.grid == (1, 4) and beside.grid == (2, 2) and beside.features.shape == alone.features.shape
    assert beside.pixels.min() > 150, "the sides are cut off, not squeezed in"


def test_features_are_what_sft_aims_at(rows: list[dict[str, Any]], sft_model: FutureL1, encoder: FrameEncoder) -> None:
    from training.data.keyframes import key_frame_number
    from training.data.video import read_frames

    row = rows[2]
    assert sft_model.latent_config is not None
    targets = sft_model.vision().merged(
        RowReader(sft_model.encoder(sft_model.latent_config), keep=False).dialogue(row, True).future
    )
    numbers = [key_frame_number(row["frame_count"], index) for index in row["future"]]
    encoded = encoder.frames(read_frames(row["path"], numbers, row["reader"]))
    np.testing.assert_array_equal(np.concatenate([f.features for f in encoded]), targets.numpy())


def test_images_are_read_a_few_at_a_time_in_order(items: Path) -> None:
    table = pl.read_parquet(items)
    items_read = list(read_items(items))
    assert [item.id for item in items_read] == table["id"].to_list()
    assert [item.future for item in items_read] == table["reasoning_images"].to_list()
    assert [item.id for item in read_items(items, {"00003", "00021"})] == ["00003", "00021"]
    assert decoded(items_read[0].observed)[0].shape == (64, 64, 3)


def test_an_item_with_a_problem_is_no_item(items: Path, tmp_path: Path) -> None:
    table = pl.read_parquet(items)
    marked = table.with_columns(pl.when(pl.col("id") == "00002").then(pl.lit("no images")).alias("problem"))
    marked.write_parquet(tmp_path / "items.parquet")
    assert [entry.id for entry in list_items(tmp_path / "items.parquet")] == [
        i.id for i in read_items(tmp_path / "items.parquet")
    ]
    assert len(list_items(tmp_path / "items.parquet")) == N - 1


def test_every_depth_is_pictured_and_no_clip_that_was_fitted_on() -> None:
    entries = [ItemEntry(f"{number:03d}", f"clip {number}", 1 + number % 3) for number in range(200)]
    pictured = sample_pictured(entries, 6, seed=0)
    chosen = [entry for name in pictured for entry in entries if entry.id == name]
    assert [entry.frames for entry in chosen] == [3, 3, 2, 2, 1, 1]
    assert all(is_held_out(entry.clip, 0) for entry in chosen)
    assert sample_pictured(entries[::-1], 6, seed=0) == pictured


# ---- several models, and means


def test_models_are_drawn_together_and_a_base_is_one_of_them(
    items: Path, encoder: FrameEncoder, sft_checkpoint: Path, tmp_path: Path
) -> None:
    from training.tiny import BASE

    features = features_of(items, encoder)
    answers = write_answers({name: future for name, (_, future) in features.items()}, tmp_path / "a.parquet")
    silent = write_answers({name: [] for name in features}, tmp_path / "silent.parquet")
    base = LatentRetrievalJob(name="base", model_kind="base", checkpoint=BASE, answers=silent)
    jobs = [base, LatentRetrievalJob(name="sft", model_kind="sft", checkpoint=sft_checkpoint, answers=answers)]
    config = LatentRetrievalConfig(out=tmp_path, device="cpu", items=items, jobs=jobs, others=3, pictured=2)
    result = main(config, Reporter(tmp_path, quiet=True))
    assert (result["base"]["spans"], result["sft"]["spans"] > N) == (0, True)
    assert (tmp_path / "retrieved_frames.png").is_file()
    sized = FrameEncoder(load(BASE), latents=9).frames([np.zeros((64, 64, 3), np.uint8)])
    assert [frame.grid for frame in sized] == [(3, 3)]


def test_the_mean_is_that_of_all_targets(
    rows: list[dict[str, Any]], data: Path, sft_model: FutureL1, sft_checkpoint: Path, tmp_path: Path
) -> None:
    job = LatentRetrievalJob(name="m", model_kind="sft", checkpoint=sft_checkpoint)
    config = LatentRetrievalConfig(out=tmp_path, device="cpu", jobs=[job], rows=data)
    result = main(config, Reporter(tmp_path, quiet=True))
    assert sft_model.latent_config is not None
    reader = RowReader(sft_model.encoder(sft_model.latent_config), keep=False)
    targets = torch.cat([sft_model.vision().merged(reader.dialogue(row, True).future) for row in rows])
    with safe_open(tmp_path / "m" / "mean.safetensors", "pt") as stored:
        torch.testing.assert_close(stored.get_tensor("mean"), targets.mean(0))
    assert result["m"]["mean"] == {"rows": len(rows), "latents": len(targets), "unreadable": 0}


def test_models_with_one_tower_and_configuration_share_their_mean(
    data: Path, sft_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = load(sft_checkpoint)
    assert changed.latent_config is not None
    changed.save(tmp_path / "smaller", changed.latent_config.model_copy(update={"max_latents": 1}))
    changed.model.model.visual.merger.norm.bias.data.add_(1)
    changed.save(tmp_path / "tower", changed.latent_config)
    folders = {"first": sft_checkpoint, "second": sft_checkpoint} | {n: tmp_path / n for n in ("smaller", "tower")}
    jobs = [LatentRetrievalJob(name=name, model_kind="sft", checkpoint=folder) for name, folder in folders.items()]
    read = []
    dialogue = RowReader.dialogue
    monkeypatch.setattr(RowReader, "dialogue", lambda *args, **named: read.append(0) or dialogue(*args, **named))
    config = LatentRetrievalConfig(out=tmp_path, device="cpu", jobs=jobs, rows=data, mean_rows=4)
    counts = {name: result["mean"] for name, result in main(config, Reporter(tmp_path, quiet=True)).items()}
    means = {name: load_file(tmp_path / name / "mean.safetensors")["mean"] for name in folders}
    assert means["first"].equal(means["second"]) and counts["first"] == counts["second"]
    assert 4 * counts["smaller"]["latents"] == counts["first"]["latents"]
    assert not means["first"].allclose(means["tower"])
    assert len(read) == 3 * 4


def test_a_row_that_cannot_be_read_is_counted_and_none_at_all_is_an_error(
    rows: list[dict[str, Any]], sft_checkpoint: Path, tmp_path: Path
) -> None:
    gone = [row | {"path": str(tmp_path / "gone.mp4")} for row in rows[:3]]
    job = LatentRetrievalJob(name="m", model_kind="sft", checkpoint=sft_checkpoint)
    config = LatentRetrievalConfig(out=tmp_path, device="cpu", jobs=[job], rows=tmp_path / "rows.parquet")
    pl.DataFrame([*gone[:1], *rows[1:3]]).write_parquet(tmp_path / "rows.parquet")
    assert main(config, Reporter(tmp_path, quiet=True))["m"]["mean"]["unreadable"] == 1
    pl.DataFrame(gone).write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"none of 3 rows gives a latent target: .*gone\.mp4"):
        main(config, Reporter(tmp_path, quiet=True))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "nothing to do"),
        ({"items": "items.parquet"}, "items and each job's answers"),
        ({"jobs": [{"name": "../up", "model_kind": "sft", "checkpoint": "c"}]}, "should match pattern"),
        ({"jobs": []}, "at least 1 item"),
    ],
)
def test_a_config_that_asks_for_nothing_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        LatentRetrievalConfig(
            **{"out": "o", "jobs": [{"name": "m", "model_kind": "sft", "checkpoint": "c"}], **changes}
        )
