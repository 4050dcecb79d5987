"""The masses of attention are those of transformers' own weights."""

from typing import Any

import pytest
import torch
from torch.nn.functional import one_hot, scaled_dot_product_attention

from training.model import attention
from training.model.attention import attention_mass
from training.model.checkpoint import FutureL1
from training.model.decode import decode
from training.model.encoding import Encoded, Encoder, collate, continued
from training.model.masking import FRAME, PADDING, SPAN, Masking, replay_mask, slot_labels
from training.model.modes import Spans
from training.model.rows import RowReader
from training.model.sampling import Sampling
from training.model.splice import inputs_of, splice_latents


@pytest.fixture(scope="module")
def answers(sft_model: FutureL1, encoder: Encoder, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Three answers of unlike lengths, each with a span: arguments of attention_mass."""
    reader = RowReader(encoder, keep=False)
    prompts: list[Encoded] = [reader.prompt(row) for row in rows[:3]]
    t, words = sft_model.tokens, sft_model.processor.tokenizer("It rolls on. It stops.", add_special_tokens=False)
    scripts = [[*words["input_ids"][:n], t.latent_start] for n in (0, 1, 4)]
    decoded = decode(
        sft_model.model, sft_model.vision(), t, prompts, Sampling(24), Spans(4, "fixed"), [[0]] * 3, scripts=scripts
    )
    completions = list(decoded.completions(t))
    return {
        "dialogues": [continued(prompt, answer.ids) for prompt, answer in zip(prompts, completions, strict=True)],
        "latents": [answer.latents for answer in completions],
        "prompts": [len(prompt.ids) for prompt in prompts],
    }


@pytest.mark.parametrize("masking", [None, Masking("frames")], ids=["plain", "masked"])
def test_masses_are_the_weights_summed_by_label(
    sft_model: FutureL1, answers: dict[str, Any], masking: Masking | None
) -> None:
    model, t, dialogues = sft_model.model, sft_model.tokens, answers["dialogues"]
    masses = attention_mass(model, sft_model.vision(), t, **answers, masking=masking)
    inputs = inputs_of(collate(dialogues, t.pad), sft_model.vision(), model.device)
    if masking:
        inputs["attention_mask"] = replay_mask(dialogues, answers["prompts"], t, masking, model.dtype)
    latent = inputs["input_ids"] == t.latent
    model.set_attn_implementation({"text_config": "eager"})
    try:
        with torch.no_grad(), splice_latents(model, latent, torch.cat(answers["latents"])):
            weights = model(**inputs, use_cache=False, output_attentions=True).attentions
    finally:
        model.set_attn_implementation({"text_config": "sdpa"})
    config = model.config.text_config
    for row, (dialogue, start) in enumerate(zip(dialogues, answers["prompts"], strict=True)):
        labels = slot_labels(dialogue.ids, start, t)
        layers, groups, queries, n_labels = masses[row].shape
        assert (layers, groups) == (config.num_hidden_layers, config.num_key_value_heads)
        assert queries == len(dialogue.ids) - start and n_labels > SPAN
        for layer in range(layers):
            of_row = weights[layer][row, :, start : len(dialogue.ids), : len(dialogue.ids)].unflatten(0, (groups, -1))
            for label in range(n_labels):
                expected = of_row[..., labels == label].sum(-1).mean(1)
                torch.testing.assert_close(masses[row][layer, :, :, label], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(masses[row].sum(-1), torch.ones(layers, groups, queries), atol=1e-5, rtol=0)
        assert not masses[row][..., PADDING].any() and masses[row][..., FRAME].any()


@pytest.mark.parametrize("masked", [None, "bool", "bias"])
def test_heads_that_share_keys_are_a_group(masked: str | None) -> None:
    """The toy model's heads have keys of their own; here three heads share one, and half of the slots are hidden."""
    torch.manual_seed(0)
    query, key, labels = torch.randn(2, 6, 8, 4), torch.randn(2, 2, 8, 4), torch.arange(16).view(2, 8) % 4
    visible = torch.ones(8, 8, dtype=torch.bool).tril().expand(2, 1, 8, 8).clone()
    if masked:
        visible[1, :, :, :3] = False
        visible[1, :, :3, :3] = torch.eye(3, dtype=torch.bool)
    bias = torch.zeros(visible.shape).masked_fill(~visible, -torch.inf)
    values = one_hot(labels, 4).float().unsqueeze(1).expand(2, 2, 8, 4)
    mixed = scaled_dot_product_attention(query, key, values, attn_mask=visible, scale=0.7, enable_gqa=True)
    masses = attention._Masses([range(5, 8), range(4, 7)], one_hot(labels, 4).float())
    masses.add(query, key, {None: None, "bool": visible, "bias": bias}[masked], 0.7)
    for row, at in enumerate((slice(5, 8), slice(4, 7))):
        expected = mixed[row, :, at].unflatten(0, (2, 3)).mean(1)
        torch.testing.assert_close(masses.layers[0][row], expected, atol=1e-5, rtol=0)


def test_queries_are_taken_a_few_at_a_time(
    sft_model: FutureL1, answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = [attention_mass(sft_model.model, sft_model.vision(), sft_model.tokens, **answers)]
    monkeypatch.setattr(attention, "MAX_WEIGHTS", 1)
    run.append(attention_mass(sft_model.model, sft_model.vision(), sft_model.tokens, **answers))
    for whole, parts in zip(*run, strict=True):
        torch.testing.assert_close(whole, parts)


def test_the_model_is_left_as_it_was(sft_model: FutureL1, answers: dict[str, Any]) -> None:
    attention_mass(sft_model.model, sft_model.vision(), sft_model.tokens, **answers)
    assert sft_model.model.config.text_config._attn_implementation == "sdpa"
    short = answers | {"latents": answers["latents"][1:]}
    with pytest.raises(ValueError, match="latents for"):
        attention_mass(sft_model.model, sft_model.vision(), sft_model.tokens, **short)
    assert sft_model.model.config.text_config._attn_implementation == "sdpa"
