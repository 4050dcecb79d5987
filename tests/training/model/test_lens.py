"""Latents are read as the tokens that they are nearest to, and as those that the head would pick."""

from typing import Any

import torch

from training.model.checkpoint import FutureL1
from training.model.decode import decode
from training.model.encoding import Encoder, continued
from training.model.lens import lens_readings, nearest_tokens
from training.model.modes import Spans
from training.model.rows import RowReader
from training.model.sampling import Sampling


def test_an_embedding_is_nearest_to_its_token_and_a_placeholder_to_a_word(sft_model: FutureL1) -> None:
    t, embeddings = sft_model.tokens, sft_model.model.get_input_embeddings().weight.detach()
    words = sft_model.processor.tokenizer("red rolls", add_special_tokens=False)["input_ids"][:2]
    ids = torch.tensor([*words, t.latent, t.latent_start, t.image])
    nearest = nearest_tokens(sft_model.model, t, 3.0 * embeddings[ids])
    assert nearest[:2].tolist() == words
    assert not {t.latent, t.latent_start, t.latent_end, t.image, t.video} & set(nearest.tolist())
    assert nearest_tokens(sft_model.model, t, embeddings[:0]).tolist() == []


def test_the_last_layer_at_a_latent_reads_as_the_next_latent(
    sft_model: FutureL1, encoder: Encoder, rows: list[dict[str, Any]]
) -> None:
    """A latent is the state before it: in a span the readings meet."""
    model, t, reader = sft_model.model, sft_model.tokens, RowReader(encoder, keep=False)
    prompts = [reader.prompt(row) for row in rows[:2]]
    answers = decode(model, sft_model.vision(), t, prompts, Sampling(20), Spans(4, "fixed"), [[0]] * 2,
                     scripts=[[t.latent_start]] * 2)  # fmt: skip
    dialogues = [continued(p, a.ids) for p, a in zip(prompts, answers.completions(t), strict=True)]
    readings = lens_readings(model, sft_model.vision(), t, dialogues, answers.latents)
    assert readings.shape == (len(answers.latents), 1 + model.config.text_config.num_hidden_layers)
    assert torch.equal(readings[:3, -1], readings[1:4, 0])
    with torch.no_grad():
        scores = model.lm_head(answers.latents)
    scores[:, [t.latent, t.latent_start, t.latent_end, t.image, t.video]] = -torch.inf
    assert torch.equal(readings[:, 0], scores.argmax(-1))
