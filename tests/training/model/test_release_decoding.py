"""Decoding as the public release does it (reference/sft.md 5), in straight-line code: one row, no cache, all anew.

The recorded checkpoint's random weights never open a span, so the head's rows of the latent tokens are lengthened:
spans of the model's own length, spans that the cap ends, and empty ones all occur.
"""

from pathlib import Path

import pytest
import torch

from training.data.keyframes import key_frame_number
from training.data.video import probe, read_frames
from training.model.checkpoint import FutureL1, load
from training.model.decode import decode
from training.model.encoding import Encoded, Encoder, FrameLimits
from training.model.modes import Spans
from training.model.sampling import Sampling

PARITY = Path(__file__).parents[2] / "data" / "parity"
QUESTIONS = (
    "Where will the yellow ball be at the end of the clip?",
    "Where is the ball?",
    "What will happen next, and why?",
    "Which way does it roll?",
    "end",
    "The ball is near the middle. What then?",
)


@pytest.fixture(scope="module")
def release() -> FutureL1:
    bundle = load(PARITY / "checkpoint")
    t, head = bundle.tokens, bundle.model.lm_head.weight
    with torch.no_grad():
        head[t.latent_start] *= 3.0
        head[t.latent_end] *= 2.5
        head[t.latent] = 0.0
    return bundle


@pytest.fixture(scope="module")
def prompts(release: FutureL1) -> list[Encoded]:
    """With and without a frame, of different lengths."""
    encoder = Encoder(release.processor, FrameLimits((2, 16384), 4), (PARITY / "system_prompt.txt").read_text())
    clip = probe(PARITY / "clip.mp4")
    numbers = [key_frame_number(clip.frames, k) for k in (1, 4, 8)]
    images = [encoder.patch(f, 2, 16384) for f in read_frames(PARITY / "clip.mp4", numbers, clip.reader)]
    prompt_ids = [["frame_1", images[i % 3], q] if i % 2 == 0 else [q] for i, q in enumerate(QUESTIONS)]
    return [encoder.prompt(parts) for parts in prompt_ids]


@torch.no_grad()
def released(bundle: FutureL1, prompt: Encoded, cap: int, steps: int) -> tuple[list[int], list[torch.Tensor]]:
    """Token ids and latents of one greedy answer, by the release's state machine."""
    model, t = bundle.model, bundle.tokens
    embed = model.get_input_embeddings()
    image = [f for f, _ in bundle.vision().features(prompt.observed)]
    deep = [d for _, d in bundle.vision().features(prompt.observed)]
    vectors = list(embed(torch.tensor(prompt.ids)))
    places = [i for i, token in enumerate(prompt.ids) if token == t.image]
    for place, feature in zip(places, torch.cat(image) if image else [], strict=True):
        vectors[place] = feature
    following = int(prompt.positions[0, -1]) + 1
    ids, latents, in_latent, budget = [], [], False, 0
    last_input = prompt.ids[-1]
    for _ in range(steps):
        length = len(vectors)
        grown = torch.arange(following, following + length - len(prompt.ids)).expand(3, -1)
        states = torch.zeros(1, length, dtype=torch.bool)
        states[0, places] = True
        state = model.model.language_model(
            inputs_embeds=torch.stack(vectors)[None],
            position_ids=torch.cat([prompt.positions, grown], 1)[:, None],
            visual_pos_masks=states if places else None,
            deepstack_visual_embeds=[torch.cat(layer) for layer in zip(*deep, strict=True)] if places else None,
            use_cache=False,
        ).last_hidden_state[0, -1]
        logits = model.lm_head(state)
        picked = int(logits.argmax())
        entering = last_input == t.latent_start and not in_latent
        budget = cap if entering else budget - in_latent
        leaving = (in_latent or entering) and (picked == t.latent_end or (in_latent and budget <= 0))
        in_latent_next = (in_latent or entering) and not leaving
        if in_latent_next:
            token, vector = t.latent, state
            latents.append(state)
        else:
            token = t.latent_end if leaving else picked
            vector = embed(torch.tensor(token))
        ids.append(token)
        vectors.append(vector)
        last_input, in_latent = token, in_latent_next
        if token == t.end_of_turn:
            break
    return ids, latents


@pytest.mark.parametrize("cap", [1, 4, 8])
def test_each_row_of_a_batch_is_decoded_as_by_the_release(release: FutureL1, prompts: list[Encoded], cap: int) -> None:
    t, seeds = release.tokens, [[0]] * len(prompts)
    batch = decode(release.model, release.vision(), t, prompts, Sampling(40), Spans(cap, "model"), seeds)
    counts = (batch.ids == t.latent).sum(1).tolist()
    sizes: set[int] = set()
    for row, prompt, latents in zip(batch.ids.tolist(), prompts, batch.latents.split(counts), strict=True):
        ids, expected = released(release, prompt, cap, 40)
        assert t.latent not in [i for i, inside in zip(ids, t.inside_span(ids), strict=True) if not inside]
        assert [i for i in row if i != t.pad] == ids
        torch.testing.assert_close(latents, torch.stack(expected) if expected else latents, atol=1e-4, rtol=0)
        sizes |= set(t.span_sizes(ids))
    assert cap in sizes and min(sizes) < cap, "some spans must be ended by the cap, and some by the model"
