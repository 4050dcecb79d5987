"""The heart of the suite: what was decoded step by step is what one parallel pass over the record computes."""

from typing import Any

import pytest
import torch

from training.model.checkpoint import FutureL1
from training.model.decode import decode
from training.model.encoding import Encoder, collate
from training.model.modes import Spans
from training.model.rows import RowReader
from training.model.sampling import Sampling
from training.model.splice import inputs_of, spliced_forward
from training.rl.losses import gaussian_log_ratio
from training.rl.rollouts import Rollout, replayed, token_log_probs, unpack

SETTINGS = {
    "greedy": (Sampling(40), Spans(4, "fixed")),
    "sampled": (Sampling(40, temperature=1.3, top_p=0.97), Spans(4, "fixed")),
    "noisy latents": (Sampling(40, temperature=0.8, latent_std=0.25), Spans(4, "fixed")),
    "spans ended by the model": (Sampling(40, temperature=3.0), Spans(3, "model")),
    "cut short": (Sampling(15, temperature=1.0), Spans(4, "fixed")),
}


@pytest.fixture(scope="module", params=SETTINGS)
def decoded(
    request: pytest.FixtureRequest, sft_model: FutureL1, encoder: Encoder, rows: list[dict[str, Any]]
) -> tuple[list[Rollout], Sampling]:
    """Four answers to each of four prompts of unlike lengths."""
    sampling, spans = SETTINGS[request.param]
    reader = RowReader(encoder, keep=False)
    requests = [*rows[:3], {**rows[3], "question": rows[3]["question"].split("\nA.")[0]}]
    prompts = [reader.prompt(row) for row in requests]
    seeds = [range(4 * i, 4 * i + 4) for i in range(4)]
    answers = decode(sft_model.model, sft_model.vision(), sft_model.tokens, prompts, sampling, spans, seeds)
    rollouts = unpack(requests, prompts, seeds, answers, sft_model.tokens, sft_model.processor.tokenizer)
    assert [(r.seed, r.prompt) for r in rollouts] == [(i, prompts[i // 4]) for i in range(16)]
    assert sum(len(r.latents) for r in rollouts) > 0
    return rollouts, sampling


def replay(sft_model: FutureL1, rollouts: list[Rollout]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids [B,T], last hidden states [B,T,D] and logits [B*T,V] of one pass over all rollouts."""
    batch = collate([replayed(r, sft_model.tokens) for r in rollouts], sft_model.tokens.pad)
    inputs = inputs_of(batch, sft_model.vision(), sft_model.model.device)
    latents = torch.cat([r.latents for r in rollouts])
    latent = batch.ids == sft_model.tokens.latent
    with torch.no_grad():
        return batch.ids, *spliced_forward(sft_model.model, inputs, latent, latents, torch.ones_like(latent))


def test_latents_are_the_states_of_the_replay(sft_model: FutureL1, decoded: tuple[list[Rollout], Sampling]) -> None:
    rollouts, sampling = decoded
    ids, states, _ = replay(sft_model, rollouts)
    means = states[(ids == sft_model.tokens.latent).roll(-1, 1)]
    latents, noise = torch.cat([r.latents for r in rollouts]), torch.cat([r.noise for r in rollouts])
    if sampling.latent_std == 0:
        torch.testing.assert_close(latents, means, atol=1e-5, rtol=0)
    else:
        ratio = gaussian_log_ratio(latents, means, noise, sampling.latent_std)
        torch.testing.assert_close(ratio, torch.zeros_like(ratio), atol=1e-5, rtol=0)
        assert (latents - means).abs().max() > 0.1


def test_log_probabilities_are_those_of_the_replay(
    sft_model: FutureL1, decoded: tuple[list[Rollout], Sampling]
) -> None:
    rollouts, sampling = decoded
    ids, _, logits = replay(sft_model, rollouts)
    for row, (rollout, logits_TV) in enumerate(zip(rollouts, logits.split(ids.shape[1]), strict=True)):
        places = len(rollout.prompt.ids) + rollout.sampled.nonzero()[:, 0]
        in_span = torch.tensor(sft_model.tokens.inside_span(rollout.ids))[rollout.sampled]
        actual = token_log_probs(
            logits_TV[places - 1], ids[row, places], in_span, sft_model.tokens, sampling.temperature
        )
        torch.testing.assert_close(actual, rollout.log_probs[rollout.sampled], atol=1e-5, rtol=0)


def test_the_record_is_complete(sft_model: FutureL1, decoded: tuple[list[Rollout], Sampling]) -> None:
    t = sft_model.tokens
    for rollout in decoded[0]:
        assert len(rollout.ids) == len(rollout.log_probs) == len(rollout.sampled)
        assert t.pad not in rollout.ids
        assert rollout.ids.count(t.latent) == len(rollout.latents) == sum(len(s) for s in rollout.spans(t))
        assert rollout.finished or rollout.ids[-1] != t.end_of_turn
        forced = {i for i, picked in zip(rollout.ids, rollout.sampled.tolist(), strict=True) if not picked}
        assert forced <= {t.latent, t.latent_end}


def test_a_static_placeholder_would_not_pass(sft_model: FutureL1, decoded: tuple[list[Rollout], Sampling]) -> None:
    """The release's replay feeds the placeholder's embedding: the test above must be able to see that."""
    rollouts, _ = decoded
    ids, states, _ = replay(sft_model, rollouts)
    batch = collate([replayed(r, sft_model.tokens) for r in rollouts], sft_model.tokens.pad)
    with torch.no_grad():
        static = sft_model.model.model(
            input_ids=ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False,
            mm_encoder_outputs=sft_model.vision().encoder_outputs(batch.observed),
        ).last_hidden_state  # fmt: skip
    ends = ids == sft_model.tokens.latent_end
    assert not torch.allclose(static[ends], states[ends], atol=1e-2)
