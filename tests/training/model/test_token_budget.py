"""Prompts are decoded as many at once as fit the device, and an answer is the same in every batch."""

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
from training.model.token_budget import TokenBudget, token_bytes

SAMPLED = Sampling(20, temperature=1.0, latent_std=0.2)
SEEDS = [[0, 1], [2, 3], [4], [5, 6, 7], [8]]
ANSWERS = 9


@pytest.fixture(scope="module")
def prompts(encoder: Encoder, rows: list[dict[str, Any]]) -> list[Encoded]:
    reader = RowReader(encoder, keep=True)
    return [reader.prompt(row) for row in rows[:5]]


def answers(bundle: FutureL1, prompts: list[Encoded], budget: TokenBudget, **options: Any) -> Decoded:
    parts = dict(
        budget.decode(
            bundle.model, bundle.vision(), bundle.tokens, prompts, SAMPLED, Spans(4, "fixed"), SEEDS, **options
        )
    )
    return joined([parts[number] for number in range(len(prompts))], bundle.tokens.pad)


def tokens_of(prompts: list[Encoded]) -> int:
    """What one batch of all answers takes."""
    places = len(prompts) + sum(map(len, SEEDS[: len(prompts)]))
    return places * (max(len(prompt.ids) for prompt in prompts) + SAMPLED.max_new_tokens)


def assert_alike(result: Decoded, expected: Decoded) -> None:
    assert torch.equal(result.ids, expected.ids) and torch.equal(result.finished, expected.finished)
    torch.testing.assert_close(result.log_probs, expected.log_probs, atol=1e-4, rtol=0)
    torch.testing.assert_close(result.latents, expected.latents, atol=1e-4, rtol=0)


def test_a_small_budget_gives_the_answers_of_one_batch(sft_model: FutureL1, prompts: list[Encoded]) -> None:
    """Also under scripts, and under an intervention, which gets the numbers of the rows among all."""
    numbers = set[int]()

    def scaled(vectors: torch.Tensor, _span: Any, _slot: Any, rows: torch.Tensor) -> torch.Tensor:
        numbers.update(rows.tolist())
        return vectors * (1 + rows.unsqueeze(-1) / 100)

    scripts = [[11] * (number % 3) for number in range(ANSWERS)]
    options: dict[str, Any] = {"intervention": scaled, "scripts": scripts}
    whole = answers(sft_model, prompts, TokenBudget(), **options)
    assert numbers == set(range(ANSWERS)) and len(whole.latents)
    assert_alike(answers(sft_model, prompts, TokenBudget(tokens_of(prompts[:2])), **options), whole)


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
    whole = answers(sft_model, prompts, TokenBudget())
    too_large(6)
    budget = TokenBudget()
    with caplog.at_level(logging.WARNING):
        result = answers(sft_model, prompts, budget)
    size = tokens_of(prompts)
    assert budget.max_tokens == size // 2
    assert caplog.messages == [f"out of memory with a batch of {size} tokens: going on with at most {size // 2}"], (
        "once"
    )
    assert_alike(result, whole)


@pytest.mark.parametrize("most", [0, 2])
def test_out_of_memory_twice_is_an_error(
    sft_model: FutureL1, prompts: list[Encoded], too_large: Any, most: int
) -> None:
    too_large(most)
    with pytest.raises(torch.OutOfMemoryError):
        answers(sft_model, prompts, TokenBudget())


def test_a_prompt_that_does_not_fit_alone_is_an_error(
    sft_model: FutureL1, prompts: list[Encoded], too_large: Any
) -> None:
    too_large(0)
    budget = TokenBudget(1)
    with pytest.raises(torch.OutOfMemoryError):
        answers(sft_model, prompts, budget)
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
