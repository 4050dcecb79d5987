"""The splice inside other people's machinery: checkpointing, adapters, TRL's fused head, half precision."""

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from trl.trainer.utils import add_fused_lm_head

from training.adapters import add_adapters
from training.model import splice
from training.model.checkpoint import FutureL1
from training.model.encoding import IGNORE, Batch, Encoder, collate
from training.model.rows import RowReader
from training.model.splice import inputs_of, splice_latents, spliced_forward
from training.recipes import LoraSettings
from training.rl.rollouts import token_log_probs


@pytest.fixture(scope="module")
def batch(sft_model: FutureL1, encoder: Encoder, rows: list[dict[str, Any]]) -> Batch:
    """Dialogues of one, two and three spans and one without, padded."""
    reader = RowReader(encoder, keep=False)
    sampled = [(0, True), (1, True), (2, True), (4, False)]
    return collate([reader.dialogue(rows[number], spans) for number, spans in sampled], sft_model.tokens.pad)


@pytest.fixture
def bundle(sft_model: FutureL1) -> FutureL1:
    """A copy that a test may change."""
    return replace(sft_model, model=copy.deepcopy(sft_model.model))


@pytest.fixture(scope="module")
def plain(sft_model: FutureL1, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        return forward(sft_model, batch)


def forward(bundle: FutureL1, batch: Batch, model: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Attended states and labelled logits of one teacher-forced pass."""
    latent, at = batch.ids == bundle.tokens.latent, (batch.labels != IGNORE).roll(-1, 1)
    targets = bundle.vision().merged(batch.future)
    inputs = inputs_of(batch, bundle.vision(), bundle.model.device)
    states, logits = spliced_forward(model or bundle.model, inputs, latent, targets, at)
    return states[batch.mask.bool()], logits


def test_logits_are_those_of_the_selected_positions(sft_model: FutureL1, batch: Batch, plain: Any) -> None:
    at = (batch.labels != IGNORE).roll(-1, 1)[batch.mask.bool()]
    with torch.no_grad():
        torch.testing.assert_close(plain[1], sft_model.model.lm_head(plain[0][at]), atol=1e-6, rtol=0)
    assert len(plain[1]) == int((batch.labels != IGNORE).sum()) < batch.mask.sum() / 2


def test_padding_changes_nothing(sft_model: FutureL1, encoder: Encoder, rows: list[dict[str, Any]], plain: Any) -> None:
    reader = RowReader(encoder, keep=False)
    alone = []
    for number, spans in [(0, True), (1, True), (2, True), (4, False)]:
        with torch.no_grad():
            alone.append(forward(sft_model, collate([reader.dialogue(rows[number], spans)], sft_model.tokens.pad))[0])
    torch.testing.assert_close(plain[0], torch.cat(alone), atol=1e-5, rtol=0)


def test_gradient_checkpointing_changes_nothing(bundle: FutureL1, batch: Batch, plain: Any) -> None:
    gradients = []
    for checkpointed in (False, True):
        bundle.model.train()
        if checkpointed:
            bundle.model.gradient_checkpointing_enable()
            assert bundle.model.model.language_model.layers[0].gradient_checkpointing
        states, logits = forward(bundle, batch)
        torch.testing.assert_close(states, plain[0], atol=1e-5, rtol=0)
        bundle.model.zero_grad()
        (states.pow(2).mean() + logits.logsumexp(-1).mean()).backward()
        weight = bundle.model.model.language_model.layers[0].self_attn.q_proj.weight
        assert weight.grad is not None and weight.grad.abs().sum() > 0
        gradients.append(weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_trls_fused_head_sees_the_latents(bundle: FutureL1, batch: Batch, plain: Any) -> None:
    add_fused_lm_head(bundle.model)
    latent, labelled = batch.ids == bundle.tokens.latent, batch.labels != IGNORE
    inputs = inputs_of(batch, bundle.vision(), bundle.model.device)
    with torch.no_grad(), splice_latents(bundle.model, latent, bundle.vision().merged(batch.future)):
        fused = bundle.model(**inputs, labels=batch.labels, fused_lm_head=True)
    expected = plain[1].log_softmax(-1).gather(-1, batch.labels[labelled][:, None])[:, 0]
    torch.testing.assert_close(fused.log_probs[labelled[:, 1:]], expected, atol=1e-5, rtol=0)


def test_fresh_adapters_change_nothing_and_merged_ones_all_that_they_learned(
    bundle: FutureL1, batch: Batch, plain: Any
) -> None:
    adapted = add_adapters(bundle, LoraSettings(r=4, lora_alpha=8.0), seed=0)
    learning = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "trainable_tokens" in name for name in learning)
    assert not any("visual" in name for name in learning)
    with torch.no_grad():
        torch.testing.assert_close(forward(bundle, batch, adapted)[0], plain[0], atol=1e-5, rtol=0)
        generator = torch.Generator().manual_seed(0)
        for name, parameter in adapted.named_parameters():
            if name in learning:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        learned = forward(bundle, batch, adapted)
        whole = adapted.merge_and_unload()
        assert not any("lora" in name for name in whole.state_dict())
        for actual, expected in zip(forward(bundle, batch, whole), learned, strict=True):
            torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    assert (learned[0] - plain[0]).abs().max() > 0.1


def test_half_precision_goes_through(bundle: FutureL1, batch: Batch, plain: Any) -> None:
    """As on a GPU: frozen weights bf16, learning ones fp32, autocast around the model's forward."""
    bundle.model.model.visual.to(torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        states, logits = forward(bundle, batch)
    assert (states.float() - plain[0]).norm() / plain[0].norm() < 0.05
    assert (logits.float() - plain[1]).norm() / plain[1].norm() < 0.05


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "adapters"])
def test_log_probabilities_in_chunks_and_their_gradients_are_the_whole_ones(
    bundle: FutureL1, batch: Batch, lora: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary = bundle.model.config.text_config.vocab_size
    model = add_adapters(bundle, LoraSettings(r=4), seed=0) if lora else bundle.model
    latent, labelled = batch.ids == bundle.tokens.latent, batch.labels != IGNORE
    words = batch.labels[labelled]
    reduce = partial(token_log_probs, tokens=bundle.tokens, temperature=0.7)
    counts: list[int] = []

    def watched(logits: torch.Tensor, *rows: torch.Tensor) -> torch.Tensor:
        counts.append(len(logits))
        return reduce(logits, *rows)

    results = []
    for size in (len(words), 7):
        monkeypatch.setattr(splice, "MAX_LOGITS", size * vocabulary)
        inputs = inputs_of(batch, bundle.vision(), bundle.model.device)
        targets, rows = bundle.vision().merged(batch.future), (words, torch.zeros_like(words, dtype=torch.bool))
        states, log_probs = spliced_forward(model, inputs, latent, targets, labelled.roll(-1, 1), watched, rows)
        model.zero_grad()
        (log_probs.mean() + states.pow(2).mean()).backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results.append((log_probs.detach(), gradients))
    assert counts[0] == len(words) and max(counts[1:]) == 7, "no more logits than these exist at once"
    assert any("lm_head" in name or "embed_tokens" in name for name in results[0][1])
    torch.testing.assert_close(*results, atol=1e-6, rtol=1e-5)
    assert "forward" not in vars(bundle.model.lm_head), "the head is as before"
