"""The tiny base: real Qwen3-VL parts, made from scratch in minutes, that sees well and predicts poorly."""

import re

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from tests.toy import LATENT_CONFIG
from training.model.checkpoint import FutureL1
from training.tiny import BASE, world
from training.tiny.build import build_model, build_processor, build_tokenizer, toy_texts
from training.tiny.train import Lesson, accuracy, downscale, drill_loss, train


def test_the_tokenizer_reads_every_phrase_of_the_world_back() -> None:
    tokenizer = build_tokenizer()
    assert len(tokenizer) <= 1024
    reasoning = {text for direction in world.KINDS for text in world.reasoning(direction, hop=3)}
    for text in {*toy_texts(), *reasoning}:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_shipped_base_has_the_vocabulary_that_is_built() -> None:
    assert build_tokenizer().get_vocab() == AutoTokenizer.from_pretrained(BASE).get_vocab()


def test_what_carries_information_is_one_token() -> None:
    tokenizer = build_tokenizer()
    for word in (*world.COLOURS, "0", "11", "<reason>", "</answer>", "\nA. ", "frame_1"):
        assert len(tokenizer(word)["input_ids"]) == 1, word
    at = [tokenizer(world.question_text("predictive", hop))["input_ids"] for hop in (1, 2)]
    assert sum(a != b for a, b in zip(*at, strict=True)) == 1, "questions differ in the step alone"


def test_latent_tokens_fit_without_a_resize() -> None:
    processor = build_processor()
    model = build_model(processor.tokenizer, seed=0)
    assert len(processor.tokenizer) + 3 <= model.get_input_embeddings().weight.shape[0]
    assert 0.5e6 < sum(p.numel() for p in model.parameters()) < 2e6


def test_a_hint_has_the_size_of_a_latent_target() -> None:
    frames = np.arange(2 * 64 * 64 * 3).reshape(2, 64, 64, 3) % 256
    small = downscale(frames.astype(np.uint8))
    assert small.shape == (2, 32, 32, 3)
    assert small[0, 0, 0, 0] == round(float(frames[0, :2, :2, 0].mean()))
    assert LATENT_CONFIG.max_latents == (32 // 16) ** 2


def test_a_short_training_learns_to_see() -> None:
    processor = build_processor()
    model = build_model(processor.tokenizer, seed=0)
    rng = np.random.default_rng(0)
    boards = world.draw_boards(60, rng, "validation")

    def drills() -> float:
        with torch.no_grad():
            return float(drill_loss(Lesson(model, processor), boards, boards.frames(0), np.random.default_rng(1)))

    before, lines = drills(), []
    train(model, processor, steps=30, batch=12, log=lines.append)
    assert drills() < 0.5 * before
    assert re.fullmatch(r"step 29 drills \d\.\d+ question \d\.\d+ feature mean square \d\.\d+", lines[-1])


@pytest.mark.parametrize(("hints", "low", "high"), [(True, 0.95, 1.0), (False, 0.0, 0.5)])
def test_the_shipped_base_answers_what_it_is_shown_and_no_more(
    base: FutureL1, hints: bool, low: float, high: float
) -> None:
    for generated, among in accuracy(base.model, base.processor, hints, n=80).values():
        assert low <= generated <= among <= high


def test_the_shipped_base_names_any_tile(base: FutureL1) -> None:
    boards = world.draw_boards(40, np.random.default_rng(0), "validation")
    with torch.no_grad():
        loss = drill_loss(Lesson(base.model, base.processor), boards, boards.frames(0), np.random.default_rng(1))
    assert float(loss) < 0.1
