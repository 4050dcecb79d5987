"""Answers that join a batch in which others are decoded are those of a batch of their own."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.model import decode as decoding
from training.model.checkpoint import FutureL1
from training.model.completions import Decoded
from training.model.decode import decode, decode_stream
from training.model.encoding import Encoded, Encoder
from training.model.interventions import first_repeated, noise
from training.model.modes import Spans
from training.model.prefill import Prefilled
from training.model.rows import RowReader
from training.model.sampling import Sampling
from training.model.scheduler import Scheduler

SPANS = Spans(4, "fixed")


@pytest.fixture(scope="module")
def prompts(encoder: Encoder, rows: list[dict[str, Any]]) -> list[Encoded]:
    """Prompts of one frame and of more, some of which begin with the same frames."""
    reader = RowReader(encoder, keep=True)
    plain = [reader.prompt(row) for row in rows[:5]]
    questions = [row["question"] + " Then what? " * number for number, row in enumerate(rows[:5])]
    longer = [reader.prompt({**row, "row_id": q, "question": q}) for row, q in zip(rows, questions, strict=False)]
    return [prompt for pair in zip(plain, longer, strict=True) for prompt in pair]


@pytest.fixture
def steps(sft_model: FutureL1) -> Iterator[list[tuple[int, int]]]:
    """The rows of each forward pass but for prefills, and the slots of the cache before it."""
    passes: list[tuple[int, int]] = []

    def count(_module: Any, _args: Any, kwargs: Any) -> None:
        rows, tokens, _ = kwargs["inputs_embeds"].shape
        if tokens == 1:
            passes.append((rows, kwargs["past_key_values"].get_seq_length()))

    hook = sft_model.model.model.language_model.register_forward_pre_hook(count, with_kwargs=True)
    yield passes
    hook.remove()


def refilled(
    bundle: FutureL1, scheduler: Scheduler, sampling: Sampling, intervention: Any = None, scripts: Any = None
) -> dict[int, Decoded]:
    stream = decode_stream(
        bundle.model, bundle.vision(), bundle.tokens, scheduler, sampling, SPANS, intervention, scripts
    )
    return dict(stream)


def assert_alike(result: Decoded, expected: Decoded) -> None:
    assert torch.equal(result.ids, expected.ids) and torch.equal(result.sampled, expected.sampled)
    assert torch.equal(result.finished, expected.finished)
    for name in ("log_probs", "latents", "latent_noise"):
        torch.testing.assert_close(getattr(result, name), getattr(expected, name), atol=1e-4, rtol=0)


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_a_refilled_batch_decodes_as_each_prompt_alone(
    sft_model: FutureL1, prompts: list[Encoded], data: st.DataObject
) -> None:
    numbers = data.draw(st.lists(st.integers(0, len(prompts) - 1), min_size=3, max_size=8), label="prompts")
    chosen = [prompts[number] for number in numbers]
    counts = data.draw(st.lists(st.integers(1, 3), min_size=len(chosen), max_size=len(chosen)), label="answers")
    first = data.draw(st.integers(0, 2**40), label="first seed")
    seeds = [[first + 10 * place + k for k in range(count)] for place, count in enumerate(counts)]
    groups = data.draw(st.sampled_from([None, [number // 2 for number in numbers]]), label="groups")
    sampling = data.draw(
        st.sampled_from([Sampling(20), Sampling(20, 1.3), Sampling(14, 1.0, 0.9, 0.2), Sampling(3, 1.0)]),
        label="sampling",
    )
    scripts = data.draw(
        st.none()
        | st.lists(st.lists(st.sampled_from([11, 12, 13]), max_size=6), min_size=sum(counts), max_size=sum(counts)),
        label="scripts",
    )
    name = data.draw(st.sampled_from(["none", "noise", "first_repeated", "scaled"]), label="intervention")

    def intervention(answers: range) -> Any:
        """Of these answers, as if they were all."""
        some = [seed for of_prompt in seeds for seed in of_prompt][answers.start : answers.stop]
        scaled = lambda vectors, _span, _slot, rows: vectors * (1 + (rows + answers.start).unsqueeze(-1) / 50)  # noqa: E731
        made = {"noise": noise(torch.tensor(some)), "first_repeated": first_repeated(len(some)), "scaled": scaled}
        return made.get(name)

    limit = data.draw(st.integers(1, 14), label="places") * (max(len(p.ids) for p in chosen) + sampling.max_new_tokens)
    scheduler = Scheduler(chosen, seeds, groups, sampling.max_new_tokens, limit)
    result = refilled(sft_model, scheduler, sampling, intervention(range(sum(counts))), scripts)
    assert sorted(result) == list(range(len(chosen)))
    for number, prompt in enumerate(chosen):
        answers = scheduler.answers[number]
        alone = decode(
            sft_model.model, sft_model.vision(), sft_model.tokens, [prompt], sampling, SPANS, [seeds[number]],
            intervention=intervention(answers), scripts=scripts and scripts[answers.start : answers.stop],
        )  # fmt: skip
        assert_alike(result[number], alone)


@contextmanager
def stops(bundle: FutureL1, mean_length: int) -> Iterator[None]:
    """Within the context an answer is any text, which may end at each step: after so many tokens in the mean."""
    tokens, often = bundle.tokens, math.log(bundle.model.lm_head.out_features / mean_length)

    def biased(_module: Any, _args: Any, logits: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros_like(logits)
        logits[:, tokens.end_of_turn], logits[:, [tokens.latent_start, tokens.pad]] = often, -100.0
        return logits

    hook = bundle.model.lm_head.register_forward_hook(biased)
    try:
        yield
    finally:
        hook.remove()


def test_a_refilled_batch_takes_fewer_steps(
    sft_model: FutureL1, prompts: list[Encoded], steps: list[tuple[int, int]]
) -> None:
    """Against one batch after the other, within the same budget: less than half."""
    sampling, seeds, many = Sampling(64, temperature=1.0), [[seed] for seed in range(40)], prompts[:4] * 10
    limit = 16 * (max(len(prompt.ids) for prompt in many) + sampling.max_new_tokens)
    parts = Scheduler(many, seeds, None, sampling.max_new_tokens, limit)
    answers: dict[int, Decoded] = {}
    with stops(sft_model, 10):
        while parts.waiting:
            part = Scheduler(many, seeds, None, sampling.max_new_tokens, limit, parts.admit([]))
            answers |= refilled(sft_model, part, sampling)
        steps_of_parts = len(steps)
        steps.clear()
        result = refilled(sft_model, Scheduler(many, seeds, None, sampling.max_new_tokens, limit), sampling)
    for number in range(40):
        assert_alike(result[number], answers[number])
    rows = [rows for rows, _ in steps]
    assert max(rows) <= 16 and len(rows) < 0.5 * steps_of_parts


def test_the_cache_of_a_batch_that_is_refilled_forever_does_not_grow(
    sft_model: FutureL1, prompts: list[Encoded], steps: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slots that only answers of the past needed are dropped, also after the last prompt joined."""
    monkeypatch.setattr("training.model.running_batch.SLAB", 2)
    sampling, seeds, many = Sampling(12, temperature=1.0), [[seed] for seed in range(40)], prompts[:1] * 40
    most = len(prompts[0].ids) + sampling.max_new_tokens
    with stops(sft_model, 8):
        refilled(sft_model, Scheduler(many, seeds, None, sampling.max_new_tokens, 8 * most), sampling)
    assert len(steps) > 3 * sampling.max_new_tokens
    assert max(slots for _, slots in steps) <= most + 2


def test_a_batch_holds_no_more_tokens_than_its_limit(
    sft_model: FutureL1, encoder: Encoder, steps: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when a long prompt has left, beside which a short one was padded."""
    monkeypatch.setattr("training.model.running_batch.SLAB", 1)
    sampling, short = Sampling(12, temperature=1.0), encoder.prompt(["What next?"])
    many = [encoder.prompt(["What next? " * 40]), *[short] * 30]
    scripts = [[sft_model.tokens.end_of_turn], [11] * 12, *[list[int]()] * 29]
    limit = 4 * (len(many[0].ids) + sampling.max_new_tokens)
    with stops(sft_model, 8):
        refilled(sft_model, Scheduler(many, [[n] for n in range(31)], None, 12, limit), sampling, scripts=scripts)
    assert max(rows * (slots + 1) for rows, slots in steps) <= limit
    assert max(rows for rows, _ in steps) > 4, "short ones alone are more at a time"


def test_the_cache_of_answers_that_are_done_is_free_before_others_are_prefilled(
    sft_model: FutureL1, prompts: list[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[Prefilled] = []
    inner = decoding.prefill

    def prefill(*args: Any) -> Prefilled:
        assert all(layer.keys.shape[0] == 0 for batch in batches for layer in batch.cache.layers)
        batches.append(inner(*args))
        return batches[-1]

    monkeypatch.setattr(decoding, "prefill", prefill)
    refilled(sft_model, Scheduler(prompts[:3], [[1], [2], [3]], None, 3, limit=1), Sampling(3))
    assert len(batches) == 3
