"""Many answers at a time, many answers of one prompt, prompts that begin alike, and rows that leave when done."""

import contextlib
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from evaluation.benchmarks.futurebench_items import video_frame_numbers
from tests.biased_logits import biased_logits, random_spans
from tests.footage import CLIPS, FOOTAGE
from tests.performance.conftest import Compare, Table
from tests.performance.subject import Subject
from tests.reference_decoding import reference_decode
from training.data.keyframes import key_frame_number
from training.data.video import frame_rate, read_frames
from training.model.checkpoint import FutureL1
from training.model.completions import Decoded
from training.model.decode import decode, decode_stream
from training.model.encoding import Encoded, Encoder
from training.model.prefill import Prefilled, prefill
from training.model.rows import RowReader
from training.model.sampling import Sampling
from training.model.scheduler import Scheduler
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

    alone, together = compare(
        f"{subject.name}, latent decoding, one answer at a time against a batch",
        lambda: [ask([number]) for number in range(len(rows))],
        lambda: ask(range(len(rows))),
        len(rows),
        memory=(lambda: ask([0]), lambda: ask(range(len(rows)))),
    )
    assert len(together.latents) > 0
    for row, answer in zip(together.ids, alone, strict=True):
        assert row[: answer.ids.shape[1]].tolist() == answer.ids[0].tolist()


def test_eight_answers_of_a_video_from_one_prefill_against_eight(subject: Subject, compare: Compare) -> None:
    """A group as RL samples it, without the tower: both ways have its features."""
    path, count = FOOTAGE / "bikes.mp4", CLIPS["bikes.mp4"]
    numbers = video_frame_numbers(count)
    encoder, ask = subject.encoder, Generator(subject.model, subject.model.vision(cache_bytes=2**28))
    video = encoder.patch_video(read_frames(path, numbers, "sequential"), numbers, frame_rate(path), 4, 32)
    prompt = encoder.prompt([*video, "What happens next?"])
    sampling = Sampling(max_new_tokens=8)
    eight, one = compare(
        f"{subject.name}, eight answers to {len(prompt.ids)} prompt tokens, eight prefills against one",
        lambda: ask([prompt] * 8, sampling),
        lambda: ask([prompt], sampling, [range(8)]),
        8,
        memory=(lambda: ask([prompt] * 8, sampling), lambda: ask([prompt], sampling, [range(8)])),
    )
    assert torch.equal(eight.ids, one.ids)


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

    def a_prefill_each() -> Decoded:
        return ask(repeated, sampling, single)

    plain, hint = (len(prompt.ids) for prompt in pairs[-1])
    what = f"8 answers to each of {len(prompts)} prompts ({plain} and {hint} tokens)"

    def begin(groups: Sequence[Hashable] | None) -> Prefilled:
        with torch.no_grad():
            return prefill(ask.model.model, ask.vision, ask.model.tokens, prompts, groups)

    n = len(single)
    each, together = compare(f"{what}, one prefill an answer against shared beginnings", a_prefill_each, shared, n)
    assert torch.equal(each.ids, together.ids)
    a_prompt, together = compare(
        f"{what}, one prefill a prompt against shared beginnings", lambda: ask(prompts, sampling, seeds), shared, n
    )
    assert torch.equal(a_prompt.ids, together.ids)
    compare("  of these the prefill alone", lambda: begin(None), lambda: begin(groups), len(prompts))


@dataclass(frozen=True)
class Case:
    """Answers of very different lengths: a batch, and the mean length at which an untrained model is made to stop."""

    name: str
    prompts: int
    samples: int
    max_new_tokens: int
    mean_length: int | None  # None: the model ends by itself


CASES = {
    "tiny": [Case("demo, rollouts", 24, 8, 44, None)],
    "mid-size": [Case("mid-size, rollouts", 6, 8, 44, 16), Case("mid-size, curation lengths", 6, 8, 96, 30)],
}


def test_rows_that_leave_their_batch_against_rows_that_stay(subject: Subject, table: Table) -> None:
    """Before: all rows in all steps, and transformers' cache.  The answers are the same bit for bit (with one thread:
    with more, torch may split a product of fewer rows otherwise)."""
    table(
        "rows that are done leave their batch; CPU seconds",
        ["", "rows", "steps", "mean length", "busy before", "busy now", "before", "rows leave", "and slabs", "ratio"],
        [before_and_after(subject, case) for case in CASES[subject.name]],
    )


def before_and_after(subject: Subject, case: Case) -> list[object]:
    model, vision, reader = subject.model, subject.model.vision(cache_bytes=2**28), RowReader(subject.encoder, True)
    prompts = [reader.prompt(subject.rows[number]) for number in range(case.prompts)]
    seeds = [[100 * number + k for k in range(case.samples)] for number in range(case.prompts)]
    sampling = Sampling(case.max_new_tokens, temperature=1.0)

    def now() -> Decoded:
        return decode(model.model, vision, model.tokens, prompts, sampling, model.spans, seeds)

    with contextlib.nullcontext() if case.mean_length is None else biased_logits(model, stops(model, case.mean_length)):
        before, cpu_before, _ = measured(
            model, lambda: reference_decode(model, vision, prompts, sampling, model.spans, seeds)
        )
        after, cpu_after, rows_now = measured(model, now)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("training.model.prefill.slab_cache", lambda _layers: DynamicCache())
            _, cpu_copying, _ = measured(model, now)
    assert torch.equal(before.ids, after.ids) and torch.equal(before.log_probs, after.log_probs)
    assert torch.equal(before.latents, after.latents)
    rows, steps = before.ids.shape
    written = int((before.ids != model.tokens.pad).sum())
    return [
        case.name, rows, steps, f"{written / rows:.0f}", f"{written / (rows * steps):.0%}", f"{written / rows_now:.0%}",
        *(f"{seconds:.2f}" for seconds in (cpu_before, cpu_copying, cpu_after)), f"{cpu_before / cpu_after:.2f} x",
    ]  # fmt: skip


def test_prompts_that_join_a_batch_against_one_batch_after_the_other(subject: Subject, table: Table) -> None:
    """24 prompts, 16 rows at a time, answers that end anywhere within 64 tokens: forward steps and busy rows."""
    model, reader, sampling = subject.model, RowReader(subject.encoder, True), Sampling(64, temperature=1.0)
    prompts, seeds = [reader.prompt(subject.rows[number % 8]) for number in range(24)], [[seed] for seed in range(24)]
    limit = 16 * (max(len(prompt.ids) for prompt in prompts) + sampling.max_new_tokens)
    vision = model.vision(cache_bytes=2**28)

    def scheduler(waiting: list[int]) -> Scheduler:
        return Scheduler(prompts, seeds, None, sampling.max_new_tokens, limit, waiting)

    def decoded(*schedulers: Scheduler) -> list[object]:
        rows: list[int] = []
        hook = model.model.lm_head.register_forward_hook(lambda _module, _args, logits: rows.append(len(logits)))
        started, tokens = time.process_time(), 0
        for each in schedulers:
            for _, answer in decode_stream(model.model, vision, model.tokens, each, sampling, model.spans):
                tokens += int((answer.ids != model.tokens.pad).sum())
        hook.remove()
        return [
            len(rows),
            f"{tokens / sum(rows):.0%}",
            f"{tokens / len(rows):.1f}",
            f"{time.process_time() - started:.2f}",
        ]

    whole = scheduler(list(range(24)))
    parts = []
    while whole.waiting:
        parts.append(scheduler(whole.admit([])))
    with biased_logits(model, stops(model, 16)):
        before, now = decoded(*parts), decoded(scheduler(list(range(24))))
    table(
        f"{subject.name}, prompts join a batch within a budget of 16 rows",
        ["", "steps", "busy", "tokens a step", "CPU seconds"],
        [["one batch after the other", *before], ["prompts join", *now]],
    )


def stops(model: FutureL1, mean_length: int) -> Callable[[int], dict[int, float]]:
    """Answers end at any step with the same probability."""
    often = torch.tensor(model.model.lm_head.out_features / mean_length).log().item()
    return lambda _step: {model.tokens.end_of_turn: often, model.tokens.pad: -1e4}


def measured(model: FutureL1, way: Callable[[], Decoded]) -> tuple[Decoded, float, int]:
    """A decoding, its CPU seconds, and the rows of all its steps together."""
    rows: list[int] = []
    hook = model.model.lm_head.register_forward_hook(lambda _module, _args, logits: rows.append(len(logits)))
    started = time.process_time()
    result = way()
    seconds = time.process_time() - started
    hook.remove()
    return result, seconds, sum(rows)
