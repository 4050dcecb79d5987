"""Prompts are decoded in parts that fit the device, and an answer is the same in every part."""

import logging
from typing import Any

import pytest
import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from training.model import token_budget
from training.model.checkpoint import FutureL1
from training.model.completions import Decoded, joined
from training.model.encoding import Encoded, Encoder
from training.model.modes import Spans
from training.model.rows import RowReader
from training.model.sampling import Sampling
from training.model.token_budget import TokenBudget, batch_tokens, part_end, token_bytes

SAMPLED = Sampling(20, temperature=1.0, latent_std=0.2)
SEEDS = [[0, 1], [2, 3], [4], [5, 6, 7], [8]]
ANSWERS = 9


@pytest.fixture(scope="module")
def prompts(encoder: Encoder, rows: list[dict[str, Any]]) -> list[Encoded]:
    reader = RowReader(encoder, keep=True)
    return [reader.prompt(row) for row in rows[:5]]


def parts_of(
    bundle: FutureL1, prompts: list[Encoded], budget: TokenBudget, **options: Any
) -> list[tuple[Any, Decoded]]:
    parts = budget.decode(
        bundle.model, bundle.vision(), bundle.tokens, prompts, SAMPLED, Spans(4, "fixed"), SEEDS, **options
    )
    return list(parts)


def assert_alike(bundle: FutureL1, result: Decoded, expected: Decoded) -> None:
    assert torch.equal(result.ids, expected.ids) and torch.equal(result.finished, expected.finished)
    torch.testing.assert_close(result.log_probs, expected.log_probs, atol=1e-4, rtol=0)
    torch.testing.assert_close(result.latents, expected.latents, atol=1e-4, rtol=0)


def test_parts_give_the_answers_of_one_batch(sft_model: FutureL1, prompts: list[Encoded]) -> None:
    """Also under scripts, and under an intervention, which gets the numbers of the rows among all."""
    pad, numbers = sft_model.tokens.pad, set[int]()

    def scaled(vectors: torch.Tensor, _span: Any, _slot: Any, rows: torch.Tensor) -> torch.Tensor:
        numbers.update(rows.tolist())
        return vectors * (1 + rows.unsqueeze(-1) / 100)

    scripts = [[11] * (number % 3) for number in range(ANSWERS)]
    options: dict[str, Any] = {"intervention": scaled, "scripts": scripts}
    ((_, whole),) = parts_of(sft_model, prompts, TokenBudget(), **options)
    assert numbers == set(range(ANSWERS)) and len(whole.latents)
    size = batch_tokens(prompts[:2], SEEDS[:2], SAMPLED.max_new_tokens)
    parts = parts_of(sft_model, prompts, TokenBudget(size), **options)
    assert len(parts) > 2 and [n for part, _ in parts for n in range(5)[part]] == list(range(5))
    assert_alike(sft_model, joined([decoded for _, decoded in parts], pad), whole)


def prompt(length: int) -> Encoded:
    return Encoded([1] * length, [], torch.zeros(3, length), [])


@pytest.mark.parametrize(
    ("limit", "groups", "end"),
    [
        (3 * 11 * 2, None, 2),  # a prompt of ten tokens and two answers of one is three times eleven
        (3 * 11 * 2 - 1, None, 1),
        (3 * 11 * 4, None, 4),
        (1, None, 1),  # one prompt at least
        (3 * 11 * 3, "aabb", 2),  # a group is not cut
        (3 * 11 * 3, "aaab", 3),
        (3 * 11 * 3, "aaaa", 3),  # but for one that does not fit
        (float("inf"), "aabb", 4),
    ],
)
def test_a_part_holds_as_many_prompts_as_fit(limit: float, groups: str | None, end: int) -> None:
    assert part_end(0, limit, [prompt(10)] * 4, [[0, 1]] * 4, 1, groups) == end


def test_padding_counts() -> None:
    assert part_end(0, 3 * 11 * 2, [prompt(10), prompt(11)], [[0, 1]] * 2, 1, None) == 1


@pytest.fixture
def too_large(sft_model: FutureL1, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model's forward pass runs out of memory with more rows than this."""

    def limit(most: int) -> None:
        forward = sft_model.model.model.language_model.forward

        def limited(*args: Any, **kwargs: Any) -> Any:
            if len(kwargs["inputs_embeds"]) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(*args, **kwargs)

        monkeypatch.setattr(sft_model.model.model.language_model, "forward", limited)

    return limit


def test_out_of_memory_halves_the_budget_and_goes_on(
    sft_model: FutureL1, prompts: list[Encoded], too_large: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ((_, whole),) = parts_of(sft_model, prompts, TokenBudget())
    too_large(6)
    budget = TokenBudget()
    with caplog.at_level(logging.WARNING):
        parts = parts_of(sft_model, prompts, budget)
    size = batch_tokens(prompts, SEEDS, SAMPLED.max_new_tokens)
    assert budget.max_tokens == size // 2 and len(parts) > 1
    assert caplog.messages == [f"out of memory with a batch of {size} tokens: going on with at most {size // 2}"], (
        "once"
    )
    assert_alike(sft_model, joined([decoded for _, decoded in parts], sft_model.tokens.pad), whole)


@pytest.mark.parametrize("most", [0, 2])
def test_out_of_memory_twice_is_an_error(
    sft_model: FutureL1, prompts: list[Encoded], too_large: Any, most: int
) -> None:
    too_large(most)
    with pytest.raises(torch.OutOfMemoryError):
        parts_of(sft_model, prompts, TokenBudget())


def test_a_prompt_that_does_not_fit_alone_is_an_error(
    sft_model: FutureL1, prompts: list[Encoded], too_large: Any
) -> None:
    too_large(0)
    budget = TokenBudget(1)
    with pytest.raises(torch.OutOfMemoryError):
        parts_of(sft_model, prompts, budget)
    assert budget.max_tokens == 1


def test_the_default_is_what_a_gpus_free_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen3-VL-8B on a GPU with 60 GiB free and 2 GiB in torch's cache."""
    text = {
        "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
        "hidden_size": 4096, "intermediate_size": 12288,
    }  # fmt: skip
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text)).bfloat16()
    assert token_bytes(model) == 147_456
    assert token_budget._free_tokens(model) == float("inf"), "no GPU, no bound"
    monkeypatch.setattr(type(model), "device", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (60 * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 20 * 2**30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 18 * 2**30)
    assert token_budget._free_tokens(model) == int(0.8 * 62 * 2**30 / 147_456)


def test_a_joined_batch_pads_shorter_answers() -> None:
    def decoded(ids: list[list[int]], latents: int) -> Decoded:
        table = torch.tensor(ids)
        return Decoded(
            table, table.float(), table > 0, torch.ones(latents, 2), torch.ones(latents), torch.tensor([True]), 1.0, 2.0
        )

    whole = joined([decoded([[5, 6]], 1), decoded([[7]], 2)], pad=9)
    assert whole.ids.tolist() == [[5, 6], [7, 9]] and whole.log_probs.tolist() == [[5.0, 6.0], [7.0, 0.0]]
    assert whole.sampled.tolist() == [[True, True], [True, False]]
    assert len(whole.latents) == len(whole.latent_noise) == 3 and whole.finished.tolist() == [True, True]
    assert (whole.prefill_seconds, whole.decode_seconds) == (2.0, 4.0)
    single = decoded([[5]], 0)
    assert joined([single], 9) is single
