"""Many answers at a time, many answers of one prompt, and prompts that begin alike."""

import contextlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from evaluation.benchmarks.futurebench import video_frame_numbers
from tests.footage import CLIPS, FOOTAGE
from tests.performance.conftest import Compare
from tests.performance.subject import Subject, biased_logits, random_spans
from training.data.keyframes import key_frame_number
from training.data.video import frame_rate, read_frames
from training.model.checkpoint import FutureL1
from training.model.decode import Decoded, Sampling, decode
from training.model.encoding import Encoded, Encoder
from training.model.prefill import Prefilled, prefill
from training.model.rows import RowReader
from training.model.vision import FrozenVision

GREEDY = Sampling(max_new_tokens=44)


@dataclass
class Generator:
    """A model with its frames' features in memory, so that only prefill and decoding are timed."""

    model: FutureL1
    vision: FrozenVision

    def __call__(
        self,
        prompts: list[Encoded],
        sampling: Sampling,
        seeds: Sequence[Sequence[int]] | None = None,
        groups: Sequence[Hashable] | None = None,
    ) -> Decoded:
        model, seeds = self.model, seeds or [[0]] * len(prompts)
        return decode(model.model, self.vision, model.tokens, prompts, sampling, model.spans, seeds, groups)


@pytest.fixture
def ask(sft_model: FutureL1) -> Generator:
    return Generator(sft_model, sft_model.vision(cache_bytes=2**28))


def test_a_batch_of_answers_against_one_at_a_time(subject: Subject, compare: Compare) -> None:
    """Answers of one length with spans at different times, so that text and latents are decoded in one forward.

    One at a time is the release's evaluation: batch 1.  The tiny model opens spans by itself, greedily; the mid-size
    one is untrained, so its tokens are sampled and its logits are biased to open spans.
    """
    reader = RowReader(subject.encoder, keep=True)
    rows = subject.rows[:24]
    prompts = [reader.prompt(row) for row in rows]
    model = subject.model
    generator = Generator(model, model.vision(cache_bytes=2**28))
    opens_spans = subject.name == "tiny"
    sampling = GREEDY if opens_spans else Sampling(max_new_tokens=24, temperature=1.0)

    def ask(numbers: Sequence[int]) -> Decoded:
        with contextlib.nullcontext() if opens_spans else biased_logits(model, random_spans(model)):
            return generator([prompts[i] for i in numbers], sampling, [[i] for i in numbers])

    together = ask(range(len(rows)))
    assert len(together.latents) > 0
    for number in range(len(rows)):
        alone = ask([number]).ids[0]
        assert together.ids[number, : len(alone)].tolist() == alone.tolist()
    compare(
        f"{subject.name}, latent decoding, one answer at a time against a batch",
        lambda: [ask([number]) for number in range(len(rows))],
        lambda: ask(range(len(rows))),
        len(rows),
        memory=(lambda: ask([0]), lambda: ask(range(len(rows)))),
    )


def test_eight_answers_of_a_video_from_one_prefill_against_eight(subject: Subject, compare: Compare) -> None:
    """A group as RL samples it, without the tower: both ways have its features."""
    path, count = FOOTAGE / "bikes.mp4", CLIPS["bikes.mp4"]
    numbers = video_frame_numbers(count)
    encoder, ask = subject.encoder, Generator(subject.model, subject.model.vision(cache_bytes=2**28))
    video = encoder.patch_video(read_frames(path, numbers, "sequential"), numbers, frame_rate(path), 4, 64)
    prompt = encoder.prompt([*video, "What happens next?"])
    sampling = Sampling(max_new_tokens=8)
    assert torch.equal(ask([prompt], sampling, [range(8)]).ids, ask([prompt] * 8, sampling).ids)
    compare(
        f"{subject.name}, eight answers to {len(prompt.ids)} prompt tokens, eight prefills against one",
        lambda: ask([prompt] * 8, sampling),
        lambda: ask([prompt], sampling, [range(8)]),
        8,
        memory=(lambda: ask([prompt] * 8, sampling), lambda: ask([prompt], sampling, [range(8)])),
    )


def toy_rows(encoder: Encoder, rows: list[dict[str, Any]]) -> list[tuple[Encoded, Encoded]]:
    """One small observed frame, and up to three smaller hints: about half of a prompt is shared."""
    pairs = []
    for row in rows[:16]:
        numbers = [key_frame_number(row["frame_count"], index) for index in (1, *row["future"])]
        first, *later = read_frames(row["path"], numbers, row["reader"])
        observed, hints = encoder.patch(first, 4, 16), [encoder.patch(frame, 4, 4) for frame in later]
        question = row["question"].replace("frame_1\n<image>\n", "")
        pairs.append(
            (encoder.prompt(["frame_1", observed, question]), encoder.prompt(["frame_1", observed, *hints, question]))
        )
    return pairs


def footage_rows(encoder: Encoder, _rows: list[dict[str, Any]]) -> list[tuple[Encoded, Encoded]]:
    """Four observed frames of real footage, and two smaller hints: nearly all of a prompt is shared."""
    path, count = FOOTAGE / "bikes.mp4", CLIPS["bikes.mp4"]
    pairs = []
    for first in range(0, 40, 10):
        frames = read_frames(path, [first + k * (count - 50) // 5 for k in range(6)], "sequential")
        observed = [encoder.patch(frame, 4, 64) for frame in frames[:4]]
        hints = [encoder.patch(frame, 4, 16) for frame in frames[4:]]
        pairs.append(
            (encoder.prompt([*observed, "What happens next?"]), encoder.prompt([*observed, *hints, "And then?"]))
        )
    return pairs


@pytest.mark.parametrize("make", [toy_rows, footage_rows])
def test_both_prompts_of_a_row_from_one_beginning(
    ask: Generator, encoder: Encoder, rows: list[dict[str, Any]], compare: Compare, make: Any
) -> None:
    """Eight answers to each.  All three ways have the frames' features: sharing saves work of the language model."""
    pairs = make(encoder, rows)
    prompts = [prompt for pair in pairs for prompt in pair]
    groups = [number for number in range(len(pairs)) for _ in range(2)]
    seeds = [range(8 * i, 8 * i + 8) for i in range(len(prompts))]
    sampling = Sampling(max_new_tokens=6, temperature=1.0)
    repeated, single = [p for p in prompts for _ in range(8)], [[seed] for row_seeds in seeds for seed in row_seeds]

    def shared() -> Decoded:
        return ask(prompts, sampling, seeds, groups)

    assert torch.equal(shared().ids, ask(prompts, sampling, seeds).ids)
    assert torch.equal(shared().ids, ask(repeated, sampling, single).ids)
    plain, hint = (len(prompt.ids) for prompt in pairs[-1])
    what = f"8 answers to each of {len(prompts)} prompts ({plain} and {hint} tokens)"

    def begin(groups: Sequence[Hashable] | None) -> Prefilled:
        with torch.no_grad():
            return prefill(ask.model.model, ask.vision, ask.model.tokens, prompts, groups)

    n = len(single)
    compare(
        f"{what}, one prefill an answer against shared beginnings", lambda: ask(repeated, sampling, single), shared, n
    )
    compare(f"{what}, one prefill a prompt against shared beginnings", lambda: ask(prompts, sampling, seeds), shared, n)
    compare("  of these the prefill alone", lambda: begin(None), lambda: begin(groups), len(prompts))
