"""Batched decoding: which tokens may be emitted when, and that a batch changes nothing for its answers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from training.model import decode as decoding
from training.model.checkpoint import FutureL1
from training.model.completions import Decoded
from training.model.decode import decode
from training.model.encoding import Encoded, Encoder
from training.model.modes import Spans
from training.model.rows import RowReader
from training.model.sampling import BANNED_LOGIT, Sampling, pick
from training.model.tokens import Tokens
from training.rl.rollouts import unpack

GREEDY = Sampling(max_new_tokens=40)
FIXED = Spans(4, "fixed")


@pytest.fixture(scope="module")
def prompts(encoder: Encoder, rows: list[dict[str, Any]]) -> list[Encoded]:
    """Prompts of different lengths, some in the middle of an answer: their rows are in different modes at once."""
    reader = RowReader(encoder, keep=True)

    def begun(row: dict[str, Any], text: str) -> Encoded:
        prompt = reader.prompt(row)
        ids = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
        start = int(prompt.positions.max()) + 1
        positions = torch.arange(start, start + len(ids)).expand(3, -1)
        return replace(
            prompt, ids=prompt.ids + ids, labels=prompt.labels + [-100] * len(ids),
            positions=torch.cat([prompt.positions, positions], 1),
        )  # fmt: skip

    unasked = {**rows[4], "row_id": "f" * 16, "question": rows[4]["question"].split("\nA.")[0]}
    first, then = "<reason>white rolls to step 2</reason>\n", "<reason>Then it rolls on.</reason>\n"
    return [
        reader.prompt(rows[0]), reader.prompt(unasked), begun(rows[1], first), begun(rows[2], first + then),
        begun(rows[3], first + "<answer>"), reader.prompt(rows[5]),
    ]  # fmt: skip


@contextmanager
def prefers(bundle: FutureL1, *wanted: int) -> Iterator[None]:
    """Within the context the model wants one of these tokens, whatever it sees (the first most)."""

    def lift(_module: Any, _args: Any, logits: torch.Tensor) -> torch.Tensor:
        logits = logits.clone()
        for rank, token in enumerate(wanted):
            logits[..., token] += 1000.0 * (len(wanted) - rank)
        return logits

    hook = bundle.model.lm_head.register_forward_hook(lift)
    try:
        yield
    finally:
        hook.remove()


@pytest.fixture
def answer(sft_model: FutureL1, prompts: list[Encoded]) -> Callable[..., Decoded]:
    def run(
        sampling: Sampling = GREEDY, spans: Spans = FIXED, requests: Any = None, seeds: Any = None, **options: Any
    ) -> Decoded:
        requests = requests or prompts[:1]
        seeds = seeds or [[number] for number in range(len(requests))]
        return decode(
            sft_model.model, sft_model.vision(), sft_model.tokens, requests, sampling, spans, seeds, **options
        )

    return run


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[int]], None]:
    """Makes every row pick these tokens one after the other, the last for ever."""

    def script(picks: list[int]) -> None:
        remaining = list(picks)

        def next_token(logits: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
            token = remaining.pop(0) if len(remaining) > 1 else remaining[0]
            return torch.full((len(logits),), token), torch.zeros(len(logits))

        monkeypatch.setattr(decoding, "pick", next_token)

    return script


def kept(ids: list[int], pad: int) -> list[int]:
    return [i for i in ids if i != pad]


# ---- a batch changes nothing for its rows


def test_a_batch_decodes_as_its_rows_alone(answer: Any, prompts: list[Encoded], sft_model: FutureL1) -> None:
    batch = answer(requests=prompts)
    lengths, modes = {len(p.ids) for p in prompts}, batch.ids == sft_model.tokens.latent
    assert len(lengths) > 3, "rows must need padding"
    assert (modes.any(0) & ~modes.all(0)).any(), "some step must mix text and latent mode"
    latents = batch.latents.split(modes.sum(1).tolist())
    for i, prompt in enumerate(prompts):
        alone = answer(requests=[prompt])
        ids = kept(batch.ids[i].tolist(), sft_model.tokens.pad)
        assert ids == kept(alone.ids[0].tolist(), sft_model.tokens.pad)
        torch.testing.assert_close(latents[i], alone.latents, atol=1e-4, rtol=0)
        torch.testing.assert_close(batch.log_probs[i, : len(ids)], alone.log_probs[0, : len(ids)], atol=1e-4, rtol=0)
        assert batch.finished[i] == alone.finished[0]


def test_one_prefill_repeated_is_as_many_prefills(answer: Any, prompts: list[Encoded]) -> None:
    shared = answer(requests=prompts[:3], seeds=[[0, 1, 2]] * 3)
    separate = answer(requests=[p for p in prompts[:3] for _ in range(3)])
    assert torch.equal(shared.ids, separate.ids)
    torch.testing.assert_close(shared.latents, separate.latents, atol=1e-4, rtol=0)


# ---- spans


def test_every_fixed_span_is_full_and_ends(answer: Any, prompts: list[Encoded], sft_model: FutureL1) -> None:
    t = sft_model.tokens
    for spans in (Spans(4, "fixed"), Spans(2, "fixed")):
        batch = answer(spans=spans, requests=prompts)
        for row in batch.ids.tolist():
            for at in (i for i, token in enumerate(row) if token == t.latent_start):
                assert row[at + 1 : at + 2 + spans.latents] == [t.latent] * spans.latents + [t.latent_end]
        assert (batch.ids == t.latent_start).any()


def test_the_model_may_end_a_span_an_empty_one_too(answer: Any, sft_model: FutureL1, scripted: Any) -> None:
    t = sft_model.tokens
    scripted([t.latent_start, 10, t.latent, t.latent_end, t.latent_start, t.latent_end, t.end_of_turn])
    batch = answer(Sampling(12), Spans(4, "model"))
    whole, empty = [t.latent_start, t.latent, t.latent, t.latent_end], [t.latent_start, t.latent_end]
    assert batch.ids[0].tolist() == [*whole, *empty, t.end_of_turn]
    assert batch.sampled[0].tolist() == [True, False, False, True, True, True, True]
    (rollout,) = unpack([{}], [None], [[0]], batch, t, sft_model.processor.tokenizer)  # type: ignore[list-item]
    assert t.span_sizes(rollout.ids) == [2, 0]
    assert [len(span) for span in rollout.spans(t)] == [2], "an empty span imagined nothing"


def test_going_on_is_a_choice_that_competes_with_the_end(answer: Any, sft_model: FutureL1) -> None:
    """Where the length is supervised, `<|latent|>` is what the model says to go on."""
    t = sft_model.tokens
    with prefers(sft_model, t.latent, t.latent_end, t.latent_start):
        batch = answer(Sampling(7), Spans(4, "model"))
    assert batch.ids[0].tolist()[:1] == [t.latent_end], "outside a span the placeholder cannot be picked"
    with prefers(sft_model, t.latent, t.latent_start, t.latent_end):
        batch = answer(Sampling(7), Spans(4, "model"))
    assert batch.ids[0].tolist() == [t.latent_start, *[t.latent] * 4, t.latent_end, t.latent_start]


def test_the_budget_ends_a_span_that_the_model_does_not(answer: Any, sft_model: FutureL1) -> None:
    t = sft_model.tokens
    with prefers(sft_model, t.latent_start):
        batch = answer(Sampling(10), Spans(3, "model"))
    span = [t.latent_start, t.latent, t.latent, t.latent, t.latent_end]
    assert batch.ids[0].tolist() == span * 2
    assert batch.sampled[0].tolist() == [True, False, False, False, False] * 2
    assert (batch.log_probs[0][~batch.sampled[0]] == 0).all(), "forced tokens were not drawn"


def test_an_end_of_turn_inside_a_span_is_discarded(answer: Any, sft_model: FutureL1, scripted: Any) -> None:
    t = sft_model.tokens
    scripted([t.latent_start, t.end_of_turn])
    batch = answer(Sampling(12), Spans(2, "model"))
    assert batch.ids[0].tolist() == [t.latent_start, t.latent, t.latent, t.latent_end, t.end_of_turn]
    assert batch.finished.tolist() == [True]


def test_without_a_budget_no_span_is_opened(answer: Any, prompts: list[Encoded], sft_model: FutureL1) -> None:
    with prefers(sft_model, sft_model.tokens.latent_start):
        batch = answer(Sampling(12), Spans(0, "model"), requests=prompts)
    assert not torch.isin(batch.ids, torch.tensor([sft_model.tokens.latent_start, sft_model.tokens.latent])).any()
    assert len(batch.latents) == 0


def test_without_a_budget_a_span_may_still_be_opened_and_closes_at_once(answer: Any, sft_model: FutureL1) -> None:
    t = sft_model.tokens
    with prefers(sft_model, t.latent_start):
        for end in ("fixed", "model"):
            batch = answer(Sampling(5), Spans(0, end, may_open=True))
            assert batch.ids[0].tolist() == [t.latent_start, t.latent_end] * 2 + [t.latent_start]
            assert batch.sampled[0].tolist() == [True, False] * 2 + [True]
            assert len(batch.latents) == 0


def test_a_script_begins_an_answer_and_is_not_sampled(answer: Any, prompts: list[Encoded], sft_model: FutureL1) -> None:
    t = sft_model.tokens
    span = [t.latent_start, *[t.latent] * 4, t.latent_end]
    with prefers(sft_model, t.latent_start, 10):
        batch = answer(Sampling(9), Spans(4, "fixed", may_open=False), requests=prompts[:2], scripts=[[*span, 11], []])
    assert batch.ids.tolist() == [[*span, 11, 10, 10], [10] * 9], "after its script no span is opened"
    assert batch.sampled.tolist() == [[False] * 7 + [True] * 2, [True] * 9]
    assert (batch.log_probs[0, :7] == 0).all()
    assert len(batch.latents) == 4


def test_an_answers_own_beginning_as_a_script_changes_nothing(
    answer: Any, prompts: list[Encoded], sft_model: FutureL1
) -> None:
    plain = answer(requests=prompts)
    answers = list(plain.completions(sft_model.tokens))
    assert sum(sft_model.tokens.latent in a.ids for a in answers) > 2
    again = answer(requests=prompts, scripts=[a.ids[: 5 * number] for number, a in enumerate(answers)])
    assert torch.equal(again.ids, plain.ids)
    torch.testing.assert_close(again.latents, plain.latents, atol=1e-4, rtol=0)
    assert again.sampled[0].equal(plain.sampled[0]) and not again.sampled[2, :10].any()


@pytest.mark.parametrize("end", ["fixed", "model"])
@pytest.mark.parametrize("size", [0, 2])
def test_a_scripts_end_ends_its_span(
    answer: Any, prompts: list[Encoded], sft_model: FutureL1, end: Any, size: int
) -> None:
    t = sft_model.tokens
    span = [t.latent_start, *[t.latent] * size, t.latent_end]
    with prefers(sft_model, t.latent_start, t.latent):
        batch = answer(Sampling(12), Spans(4, end), scripts=[span])
    span_of_model = [t.latent_start, *[t.latent] * 4, t.latent_end]
    assert batch.ids[0].tolist() == [*span, *span_of_model, *span_of_model][:12], "the model's own spans are as before"


def test_an_observer_gets_what_each_answer_emits_and_may_end_the_batch(
    answer: Any, prompts: list[Encoded], sft_model: FutureL1
) -> None:
    steps: list[tuple[list[int], torch.Tensor, list[int]]] = []

    def observe(ids: torch.Tensor, vectors: torch.Tensor, rows: torch.Tensor) -> None:
        steps.append((ids.tolist(), vectors, rows.tolist()))

    batch = answer(requests=prompts, observer=observe)
    latents = []
    for row, completion in enumerate(batch.completions(sft_model.tokens)):
        emitted = [(ids[rows.index(row)], vectors[rows.index(row)]) for ids, vectors, rows in steps if row in rows]
        assert [token for token, _ in emitted][: len(completion.ids)] == completion.ids
        latents += [vector for token, vector in emitted if token == sft_model.tokens.latent]
    torch.testing.assert_close(torch.stack(latents), batch.latents)

    def leave(ids: torch.Tensor, vectors: torch.Tensor, rows: torch.Tensor) -> None:
        steps.clear()
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        answer(observer=leave)


def test_each_answer_needs_its_script(answer: Any, prompts: list[Encoded]) -> None:
    with pytest.raises(ValueError, match="1 for 2 answers"):
        answer(requests=prompts[:2], scripts=[[1]])


@pytest.mark.parametrize("spans", [Spans(0, "model"), Spans(4, "model")])
def test_text_mode_emits_no_placeholders(
    answer: Any, prompts: list[Encoded], sft_model: FutureL1, spans: Spans
) -> None:
    t = sft_model.tokens
    never = (t.latent, t.image, t.video, *((t.latent_start, t.latent_end) if spans.latents == 0 else ()))
    with prefers(sft_model, *never):
        for sampling in (Sampling(8), Sampling(8, temperature=2.0)):
            batch = answer(sampling, spans, requests=prompts)
            in_text = torch.tensor([[not i for i in t.inside_span(row)] for row in batch.ids.tolist()])
            assert not torch.isin(batch.ids[in_text], torch.tensor(never)).any()


def test_sampling_that_means_nothing_is_refused() -> None:
    for wrong in ({"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"latent_std": -0.1}):
        with pytest.raises(ValueError, match="sampling needs max_new_tokens >= 1"):
            Sampling(**{"max_new_tokens": 4, **wrong})


def test_transformers_own_generation_is_an_error(sft_model: FutureL1) -> None:
    for options in ({"num_beams": 4}, {"use_cache": False}, {}):
        with pytest.raises(NotImplementedError, match=r"generate\(\) does not know them"):
            sft_model.model.generate(input_ids=torch.tensor([[1]]), **options)


@pytest.mark.parametrize("length", [1, 2, 3, 5, 6])
def test_a_span_cut_by_the_length_stays_open_and_well_formed(answer: Any, sft_model: FutureL1, length: int) -> None:
    t = sft_model.tokens
    with prefers(sft_model, t.latent_start):
        batch = answer(Sampling(length))
    whole = [t.latent_start, t.latent, t.latent, t.latent, t.latent, t.latent_end]
    assert batch.ids[0].tolist() == whole[:length]
    assert not batch.finished[0]
    assert len(batch.latents) == whole[:length].count(t.latent)
    (rollout,) = unpack([{}], [None], [[0]], batch, t, sft_model.processor.tokenizer)  # type: ignore[list-item]
    assert t.span_sizes(rollout.ids) == [len(batch.latents)]


def test_a_padding_token_in_text_ends_the_turn(answer: Any, sft_model: FutureL1, scripted: Any) -> None:
    """Qwen's generation config lists it as an end, and padding after it could not be told from it."""
    scripted([10, sft_model.tokens.pad, 11])
    batch = answer(Sampling(6))
    (rollout,) = unpack([{}], [None], [[0]], batch, sft_model.tokens, sft_model.processor.tokenizer)  # type: ignore[list-item]
    assert rollout.ids == [10]
    assert rollout.finished


# ---- drawing


SAMPLED = Sampling(30, temperature=1.5, top_p=0.95, latent_std=0.2)


def records(batch: Decoded, tokens: Tokens) -> list[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Tokens, log-probabilities and latents of each answer."""
    latents = batch.latents.split((batch.ids == tokens.latent).sum(1).tolist())
    ids = [kept(row, tokens.pad) for row in batch.ids.tolist()]
    return [(of_row, batch.log_probs[i, : len(of_row)], latents[i]) for i, of_row in enumerate(ids)]


def assert_alike(result: list[Any], expected: list[Any]) -> None:
    for (ids, log_probs, latents), (same_ids, same_log_probs, same_latents) in zip(result, expected, strict=True):
        assert ids == same_ids
        torch.testing.assert_close(log_probs, same_log_probs, atol=1e-4, rtol=0)
        torch.testing.assert_close(latents, same_latents, atol=1e-4, rtol=0)


def test_an_answer_depends_on_its_prompt_and_seed_only(
    answer: Any, prompts: list[Encoded], sft_model: FutureL1
) -> None:
    seeds = [[100 * i + k for k in range(4)] for i in range(len(prompts))]
    whole = records(answer(SAMPLED, requests=prompts, seeds=seeds), sft_model.tokens)
    forced = dict(zip([s for of_row in seeds for s in of_row], whole, strict=True))
    assert len({tuple(ids) for ids, _, _ in whole}) > len(prompts), "answers must differ for this to mean anything"
    regrouped = [
        ([3, 0], [seeds[3], seeds[0]]),
        ([5], [[503]]),
        ([2, 4, 1], [[203, 200], [402], [103, 101, 100]]),
        ([1, 1], [[101], [100, 102]]),
    ]
    for numbers, some in regrouped:
        part = answer(SAMPLED, requests=[prompts[i] for i in numbers], seeds=some)
        assert_alike(records(part, sft_model.tokens), [forced[seed] for of_row in some for seed in of_row])


def test_another_seed_draws_another_answer(answer: Any, prompts: list[Encoded]) -> None:
    first, other = (answer(SAMPLED, requests=prompts, seeds=[[seed]] * len(prompts)) for seed in (1, 2))
    assert first.ids.shape != other.ids.shape or not torch.equal(first.ids, other.ids)


def test_a_prompt_without_seeds_is_a_mistake(answer: Any, prompts: list[Encoded]) -> None:
    with pytest.raises(ValueError, match="each prompt needs its seeds"):
        answer(requests=prompts[:2], seeds=[[1], []])
    with pytest.raises(ValueError, match="each prompt needs its seeds"):
        answer(requests=prompts[:2], seeds=[[1]])


@pytest.mark.parametrize(("number", "token"), [(0.0, 1), (1 - 2**-53, 3)])
def test_the_smallest_and_the_largest_number_sample_allowed_tokens_only(
    number: float, token: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = torch.full((1, 1), number, dtype=torch.float64)
    monkeypatch.setattr("training.model.sampling.uniform", lambda *_: numbers)
    logits = torch.tensor([[BANNED_LOGIT, 0.3, 2.0, -1.0, BANNED_LOGIT]])
    picked, _ = pick(logits, Sampling(1, temperature=1.0), torch.zeros(1).long(), 0)
    assert picked.tolist() == [token]


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_tokens_are_sampled_as_often_as_they_are_likely(top_p: float) -> None:
    """20,000 draws from five tokens, one of which is forbidden; the cut leaves the likeliest two."""
    probs = torch.tensor([0.1, 0.45, 0.0, 0.3, 0.15])
    logits = (probs.log() * 2).clamp(min=BANNED_LOGIT).expand(20_000, -1)
    seeds = torch.arange(20_000)
    picked, log_probs = pick(logits, Sampling(1, temperature=2.0, top_p=top_p), seeds, 7)
    expected = probs if top_p == 1 else torch.tensor([0.0, 0.6, 0.0, 0.4, 0.0])
    shares = torch.bincount(picked, minlength=5) / len(picked)
    torch.testing.assert_close(shares, expected, atol=0.015, rtol=0)
    assert (shares[expected == 0] == 0).all()
    torch.testing.assert_close(log_probs, probs.log()[picked], atol=1e-5, rtol=0)  # before the cut


def test_the_siblings_of_a_prompt_differ(answer: Any, prompts: list[Encoded]) -> None:
    batch = answer(Sampling(30, temperature=2.0), requests=prompts[:1], seeds=[range(8)])
    assert len({tuple(row) for row in batch.ids.tolist()}) > 1


def test_a_tiny_nucleus_is_greedy(answer: Any, prompts: list[Encoded]) -> None:
    nucleus = Sampling(30, temperature=1.0, top_p=1e-6)
    sampled_ids = answer(nucleus, requests=prompts)
    assert torch.equal(sampled_ids.ids, answer(Sampling(30), requests=prompts).ids)


def test_latent_noise_is_around_the_hidden_state(answer: Any, sft_model: FutureL1) -> None:
    with prefers(sft_model, sft_model.tokens.latent_start):
        plain = answer(Sampling(2))
        noisy = answer(Sampling(2, latent_std=0.3))
    assert (plain.latent_noise == 0).all()
    # the first latent of both follows the same states, so their difference is the noise that was recorded
    recorded = ((noisy.latents[0] - plain.latents[0]) / 0.3).pow(2).mean()
    torch.testing.assert_close(noisy.latent_noise[0], recorded, atol=1e-4, rtol=0)
    assert 0.5 < float(recorded) < 2


def test_what_follows_the_end_of_a_turn_is_padding(answer: Any, prompts: list[Encoded], sft_model: FutureL1) -> None:
    batch = answer(Sampling(40, temperature=1.0), requests=prompts)
    assert batch.finished.any()
    for row, sampled, finished in zip(batch.ids.tolist(), batch.sampled.tolist(), batch.finished.tolist(), strict=True):
        if finished:
            end = row.index(sft_model.tokens.end_of_turn)
            assert set(row[end + 1 :]) <= {sft_model.tokens.pad}
            assert sampled[end] and not any(sampled[end + 1 :])
