"""The local engine: how requests are batched changes no answer, and what cannot be read is refused."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluation.generation import local
from evaluation.generation.config import GenerationConfig
from evaluation.generation.jobs import MEDIATIONS, AnswerJob, InterventionName, MediationName
from evaluation.generation.local import LocalEngine, batches
from evaluation.generation.records import stored_latents
from evaluation.generation.requests import Answer, LedgerSummary, Refusal, Request
from tests.evaluation.jobs import generate
from training.data import parts, video
from training.data.keyframes import key_frame_number
from training.data.prompts import ANSWERS
from training.model import decode as decoding
from training.model.checkpoint import FutureL1
from training.model.decode import decode
from training.model.latent_config import LatentConfig
from training.model.randomness import derived_seed
from training.model.sampling import Sampling
from training.tiny import BASE

GREEDY = GenerationConfig(max_new_tokens=40, batch_size=16, image_tokens=(4, 16))
SAMPLED = GREEDY.model_copy(update={"temperature": 1.3, "top_p": 0.95})


def request(prompt_id: str, content: list[parts.Part], samples: Sequence[int] = (0,)) -> Request:
    seeds = tuple(derived_seed(prompt_id, sample) for sample in samples)
    return Request(prompt_id, content, tuple(samples), seeds, prompt_id.split("/")[0])


@pytest.fixture(scope="module")
def pairs(rows: list[dict[str, Any]]) -> list[Request]:
    """Six rows, each plainly and with its true future frames, two answers each."""

    def content(row: dict[str, Any], hint: bool) -> list[parts.Part]:
        numbers = [key_frame_number(row["frame_count"], index) for index in [1, *row["future"]][: None if hint else 1]]
        frame_parts = [parts.frame(row["path"], n, None if n == numbers[0] else 4, row["reader"]) for n in numbers]
        return [parts.text("frame_1"), *frame_parts, parts.text(row["question"].replace("frame_1\n<image>\n", ""))]

    return [
        request(f"{row['row_id']}/{'hint' if hint else 'plain'}", content(row, hint), (0, 1))
        for hint in (False, True)
        for row in rows[:6]
    ]


@pytest.fixture
def engine() -> LocalEngine:
    return LocalEngine("cpu", vision_cache_gib=0.1, frames_cache_gib=0.1)


def by_sample(replies: Sequence[Answer | Refusal]) -> dict[tuple[str, int], Answer]:
    """Answers by prompt and number, without the seconds that they took."""
    answers = [a for a in replies if not isinstance(a, Refusal)]
    return {(a["prompt_id"], a["sample"]): {k: v for k, v in a.items() if not k.endswith("_seconds")} for a in answers}


# ---- answers


def test_answers_are_the_decoders(
    engine: LocalEngine, pairs: list[Request], sft_model: FutureL1, sft_checkpoint: Path
) -> None:
    answers = by_sample(list(generate(engine, sft_checkpoint, SAMPLED, "none", pairs)))
    assert sft_model.latent_config is not None
    encoder, frame_cache = sft_model.encoder(sft_model.latent_config), video.FrameCache(0)
    sampling, t = Sampling(40, 1.3, 0.95), sft_model.tokens
    for wanted in pairs[::5]:
        encoded = local.encode(encoder, wanted.content, frame_cache)
        expected = decode(sft_model.model, sft_model.vision(), t, [encoded], sampling, sft_model.spans, [wanted.seeds])
        for sample, ids in enumerate(expected.ids.tolist()):
            kept = [i for i in ids if i != t.pad]
            text = [i for i in kept if i != t.end_of_turn]
            answer = answers[wanted.prompt_id, sample]
            assert answer["tokens"] == kept
            assert answer["text"] == sft_model.processor.tokenizer.decode(text, skip_special_tokens=False)
            assert answer["finished"] == bool(expected.finished[sample])
            assert answer["latent_tokens"] == sum(answer["spans"]) == kept.count(t.latent)
            assert answer["text_tokens"] + answer["latent_tokens"] + answer["control_tokens"] == len(kept)


def test_answers_have_the_columns_of_the_table(engine: LocalEngine, pairs: list[Request], sft_checkpoint: Path) -> None:
    replies = list(generate(engine, sft_checkpoint, GREEDY, "none", pairs[:2]))
    assert pl.DataFrame(replies, schema=ANSWERS).height == 4
    assert all(
        set(a) == {*ANSWERS, "prompt_tokens"} and a["decode_seconds"] > 0 for a in replies if not isinstance(a, Refusal)
    )


@pytest.mark.parametrize("intervention", ["none", "zeros", "noise", "first_repeated", "spans_2"])
def test_an_answer_is_the_same_in_any_company(
    engine: LocalEngine, pairs: list[Request], sft_checkpoint: Path, intervention: InterventionName
) -> None:
    whole = by_sample(list(generate(engine, sft_checkpoint, SAMPLED, intervention, pairs)))
    assert len({a["text"] for a in whole.values()}) > 6, "answers must differ for this to mean anything"
    small = SAMPLED.model_copy(update={"batch_size": 3})
    others = [request(r.prompt_id, r.content, (1,)) for r in pairs[::-1]]
    unrelated = [replace(r, group=r.prompt_id) for r in pairs]
    for generation, requests in ((small, pairs), (SAMPLED, others), (SAMPLED, unrelated), (SAMPLED, pairs[3:4])):
        part = by_sample(list(generate(engine, sft_checkpoint, generation, intervention, requests)))
        assert part == {key: whole[key] for key in part}
        assert set(part) == {(r.prompt_id, sample) for r in requests for sample in r.samples}


def test_a_base_gets_images_and_system_prompt_of_its_config_and_opens_no_span(
    engine: LocalEngine, pairs: list[Request], base: FutureL1
) -> None:
    fields = {"max_new_tokens": 6, "image_tokens": (4, 9), "system_prompt": "Answer briefly."}
    generation = GREEDY.model_copy(update=fields)
    answers = by_sample(list(generate(engine, BASE, generation, "none", pairs)))
    latent_config = LatentConfig(image_tokens=(4, 9), max_latents=0, span_end="model", system_prompt="Answer briefly.")
    encoded = local.encode(base.encoder(latent_config), pairs[0].content, video.FrameCache(0))
    expected = decode(base.model, base.vision(), base.tokens, [encoded], Sampling(6), base.spans, [[0]])
    assert answers[pairs[0].prompt_id, 0]["tokens"] == [i for i in expected.ids[0].tolist() if i != base.tokens.pad]
    assert all(a["latent_tokens"] == 0 for a in answers.values())


def test_latents_are_kept_as_they_were_fed(
    engine: LocalEngine, pairs: list[Request], sft_model: FutureL1, sft_checkpoint: Path
) -> None:
    replies = list(generate(engine, sft_checkpoint, SAMPLED, "none", pairs, keep_latents=True))
    assert sft_model.latent_config is not None
    encoder, frame_cache, t = sft_model.encoder(sft_model.latent_config), video.FrameCache(0), sft_model.tokens
    stored = {(a["prompt_id"], a["sample"]): a for a in replies if not isinstance(a, Refusal)}
    assert len({bool(a["latents"]) for a in stored.values()}) == 2, "answers with latents and without"
    for wanted in pairs[::4]:
        encoded = local.encode(encoder, wanted.content, frame_cache)
        expected = decode(
            sft_model.model, sft_model.vision(), t, [encoded], Sampling(40, 1.3, 0.95), sft_model.spans, [wanted.seeds]
        )
        for sample, answer in zip(wanted.samples, expected.completions(t), strict=True):
            data = stored[wanted.prompt_id, sample]["latents"]
            if not len(answer.latents):
                assert data is None
                continue
            vectors = np.frombuffer(data, "<f2").reshape(sum(stored[wanted.prompt_id, sample]["spans"]), -1)
            np.testing.assert_allclose(vectors, answer.latents.numpy(), rtol=2e-3, atol=2e-3)


def test_latents_that_float16_does_not_hold_are_an_error() -> None:
    with pytest.raises(ValueError, match="latents of 'item' are not finite in float16: largest 1e\\+05"):
        stored_latents("item", torch.full((2, 3), 1e5))


def test_a_prompt_without_frames_is_answered(engine: LocalEngine, pairs: list[Request], sft_checkpoint: Path) -> None:
    blind = [replace(r, content=[part for part in r.content if part["type"] == "text"]) for r in pairs[:3]]
    mixed = by_sample(list(generate(engine, sft_checkpoint, GREEDY, "none", [*blind, *pairs[3:6]])))
    alone = by_sample(list(generate(engine, sft_checkpoint, GREEDY, "none", blind)))
    assert len(alone) == 6 and alone == {key: mixed[key] for key in alone}


def test_the_times_of_shuffled_frames_ascend(sft_model: FutureL1, pairs: list[Request]) -> None:
    assert sft_model.latent_config is not None
    encoder, clip = sft_model.encoder(sft_model.latent_config), pairs[0].content[1]["path"]
    ordered, shuffled = (
        local.encode(encoder, [parts.video(clip, numbers), parts.text("?")], video.FrameCache(0))
        for numbers in ([0, 1, 2, 3], [3, 0, 2, 1])
    )
    assert ordered.ids == shuffled.ids, "times are words of the prompt"
    in_order, changed = (torch.cat([p.pixels for p in encoded.observed]) for encoded in (ordered, shuffled))
    assert in_order.shape == changed.shape and not torch.equal(in_order, changed)


def test_who_finds_no_donor_is_refused_with_the_reason(
    engine: LocalEngine, pairs: list[Request], sft_checkpoint: Path
) -> None:
    requests = [replace(r, reference=r.group) for r in pairs[:6]]
    replies = list(generate(engine, sft_checkpoint, GREEDY, "same_answer", requests))
    plain = by_sample(list(generate(engine, sft_checkpoint, GREEDY, "none", requests)))
    used = {prompt_id for (prompt_id, _), answer in plain.items() if answer["latent_tokens"]}
    assert used and {r.prompt_id for r in replies if isinstance(r, Refusal)} == used
    assert {prompt_id for prompt_id, _ in by_sample(replies)} == {r.prompt_id for r in requests} - used


@pytest.mark.parametrize("intervention", ["zeros", "noise", "other_item", "first_repeated"])
def test_an_intervention_changes_what_follows_the_first_latents(
    engine: LocalEngine, pairs: list[Request], sft_checkpoint: Path, intervention: InterventionName
) -> None:
    plain, replaced = (
        by_sample(list(generate(engine, sft_checkpoint, GREEDY, n, pairs))) for n in ("none", intervention)
    )
    assert plain.keys() == replaced.keys()
    for key, answer in plain.items():
        assert answer["text"].split("<|latent_end|>")[0] == replaced[key]["text"].split("<|latent_end|>")[0]


def test_latents_are_read_beside_the_answers(engine: LocalEngine, pairs: list[Request], sft_checkpoint: Path) -> None:
    """Attention as decoded and with noise, in each layer and head group, and words for each latent."""
    plain = by_sample(list(generate(engine, sft_checkpoint, GREEDY, "none", pairs)))
    job = AnswerJob(name="readings", checkpoint=sft_checkpoint, prompts=Path("none.parquet"), generation=GREEDY,
                    read_latents=True)  # fmt: skip
    read = by_sample(list(engine.generate(job, pairs, LedgerSummary())))
    assert read.keys() == plain.keys() and {bool(answer["latent_tokens"]) for answer in read.values()} == {True, False}
    for key, answer in read.items():
        assert answer["text"] == plain[key]["text"]
        shares = np.array(answer["attention"])
        assert shares.shape[0] == 2 and shares.shape[-1] == 3
        np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-4)
        assert (shares[..., 1] > 0).all(), "frames"
        assert (shares[..., 2] > 0).any() == bool(answer["latent_tokens"]), "spans"
        assert np.array_equal(shares[0], shares[1]) != bool(answer["latent_tokens"]), "noise draws other attention"
        assert len(answer["words"]) == answer["latent_tokens"]
        assert all(len(word["lens"]) == 1 + shares.shape[1] for word in answer["words"])


@pytest.mark.parametrize("intervention", MEDIATIONS)
def test_a_prompt_without_its_control_is_read_for_mediation(
    engine: LocalEngine, pairs: list[Request], sft_checkpoint: Path, intervention: MediationName
) -> None:
    """The control here is another question; the answers are to the prompt that they are said to be of."""
    others = [replace(r, content=[*r.content[:-1], parts.text("What else?")], original=r.content) for r in pairs]
    job = AnswerJob(name="mediated", checkpoint=sft_checkpoint, prompts=Path("none.parquet"), generation=GREEDY,
                    control="mirrored", intervention=intervention, keep_latents=True)  # fmt: skip
    answers = by_sample(list(engine.generate(job, others, LedgerSummary())))
    of_prompt = by_sample(list(generate(engine, sft_checkpoint, GREEDY, "none",
                                        pairs if intervention == "changed_latents" else others)))  # fmt: skip
    for key, answer in answers.items():
        assert answer["prompt_tokens"] == of_prompt[key]["prompt_tokens"]
        begin = answer["text"].split("<|latent_end|>")[0]
        assert begin == of_prompt[key]["text"].split("<|latent_end|>")[0]


# ---- prompts that cannot be read


def test_what_cannot_be_read_is_refused_once_and_the_rest_answered(
    engine: LocalEngine, pairs: list[Request], sft_checkpoint: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    clip = pairs[0].content[1]["path"]
    spoiled = {
        "broken": [parts.frame(broken, 0)],
        "missing": [parts.frame(tmp_path / "missing.mp4", 0)],
        "beyond": [parts.frame(clip, 999)],
        "not an image": [parts.image(b"not an image")],
        "a placeholder": [parts.frame(clip, 0), parts.text("<|image_pad|>")],
        "a sound": [parts.text("hear") | {"type": "audio"}],
    }
    requests = [request(name, content, (0, 1)) for name, content in spoiled.items()] + pairs[:3]
    small = GREEDY.model_copy(update={"batch_size": 4})
    replies = list(generate(engine, sft_checkpoint, small, "none", requests))
    refused = {r.prompt_id: r.reason for r in replies if isinstance(r, Refusal)}
    assert len(replies) == len(spoiled) + 6 and set(refused) == set(spoiled)
    assert {name for name, _ in by_sample(replies)} == {r.prompt_id for r in pairs[:3]}
    assert min(len(reason) for reason in refused.values()) > 10
    assert "broken.mp4" in refused["broken"] and "999" in refused["beyond"]


def test_a_mistake_is_an_error_before_anything_is_loaded(engine: LocalEngine, pairs: list[Request]) -> None:
    with pytest.raises(ValueError, match="job 'answers' has no checkpoint"):
        next(generate(engine, None, GREEDY, "none", pairs))


# ---- what it costs


def test_a_model_is_loaded_once_and_one_at_a_time(
    engine: LocalEngine, pairs: list[Request], sft_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Path] = []
    inner = local.load
    monkeypatch.setattr(local, "load", lambda folder, *rest: loaded.append(folder) or inner(folder, *rest))
    short = GREEDY.model_copy(update={"max_new_tokens": 2})
    for checkpoint in (sft_checkpoint, sft_checkpoint, BASE, sft_checkpoint):
        assert len(list(generate(engine, checkpoint, short, "none", pairs[:1]))) == 2
    assert loaded == [sft_checkpoint, BASE, sft_checkpoint]


def test_answers_arrive_batch_by_batch(
    engine: LocalEngine, pairs: list[Request], sft_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    inner = decoding.prefill
    monkeypatch.setattr(decoding, "prefill", lambda *a: decoded.append(len(a[3])) or inner(*a))
    arriving = generate(engine, sft_checkpoint, GREEDY.model_copy(update={"batch_size": 8}), "none", pairs)
    for number in range(24):
        next(arriving)
        assert len(decoded) == number // 8 + 1
    assert decoded == [4, 4, 4]


@pytest.mark.parametrize("intervention", ["none", "noise", "first_repeated", "other_item", "spans_2"])
def test_a_token_budget_changes_no_answer(
    engine: LocalEngine,
    pairs: list[Request],
    sft_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    intervention: InterventionName,
) -> None:
    """Prompts join the batch as others end; donors of latents are those of the whole batch."""
    decoded: list[int] = []
    inner = decoding.prefill
    whole = list(generate(engine, sft_checkpoint, GREEDY, intervention, pairs[:8]))
    monkeypatch.setattr(decoding, "prefill", lambda *a: decoded.append(len(a[3])) or inner(*a))
    small = GREEDY.model_copy(update={"max_batch_tokens": 1000})
    parts = list(generate(engine, sft_checkpoint, small, intervention, pairs[:8]))
    assert len(decoded) > 2 and max(decoded) < 8
    tokens = [{name: answer["tokens"] for name, answer in by_sample(replies).items()} for replies in (parts, whole)]
    assert tokens[0] == tokens[1] and len(tokens[0]) > 8


def test_a_rows_clip_is_opened_once_for_both_its_prompts(
    engine: LocalEngine, pairs: list[Request], sft_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    inner = video.READERS["sequential"]
    monkeypatch.setitem(video.READERS, "sequential", lambda path, wanted: opened.append(path) or inner(path, wanted))
    short = GREEDY.model_copy(update={"max_new_tokens": 2, "batch_size": 8})
    list(generate(engine, sft_checkpoint, short, "none", pairs))
    assert len(opened) == len(set(opened)) == 6


# ---- batches


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 8), st.integers(0, 4)), max_size=30, unique_by=lambda r: r),
    st.integers(1, 20),
)
def test_batches_hold_every_request_once_and_keep_groups_together(
    sizes: list[tuple[int, int, int]], batch_size: int
) -> None:
    requests = [
        request(f"{group}/{k}", [parts.text("?"), *[parts.frame("clip.mp4", 0)] * frames], range(samples))
        for k, (group, samples, frames) in enumerate(sizes)
    ]
    replies = list(batches(requests, batch_size))
    assert sorted(r.prompt_id for batch in replies for r in batch) == sorted(r.prompt_id for r in requests)
    for batch in replies:
        assert len(batch) == 1 or sum(len(r.samples) for r in batch) <= batch_size
    for group in {r.group for r in requests}:
        places = [(n, k) for n, batch in enumerate(replies) for k, r in enumerate(batch) if r.group == group]
        if sum(len(r.samples) for r in requests if r.group == group) <= batch_size:
            assert len({n for n, _ in places}) == 1, "a group that fits is in one batch"
            assert [k for _, k in places] == list(range(places[0][1], places[0][1] + len(places))), "side by side"
