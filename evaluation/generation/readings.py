"""Readings of decoded answers: the attention that they pay to their spans, and what their latents say in words.

Answers are replayed in parallel, with their own latents and once more with noise in the latents' place.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from training.model.attention import attention_mass
from training.model.checkpoint import FutureL1
from training.model.completions import Completion, Decoded
from training.model.encoding import Encoded, continued
from training.model.interventions import noise
from training.model.lens import lens_readings, nearest_tokens
from training.model.masking import FRAME, SPAN, TEXT, closed_spans, slot_labels
from training.model.vision import FrozenVision

MAX_TOKENS = 16_384
"""Tokens that are replayed at once, padding counted."""
DIGITS = 5


def read_latents(
    bundle: FutureL1, vision: FrozenVision, prompts: Sequence[Encoded], decoded: Decoded, seeds: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Of each answer, its columns `attention` and `words`; prompts and seeds: one an answer."""
    answers = list(zip(prompts, decoded.completions(bundle.tokens), seeds, strict=True))
    longest = max(len(prompt.ids) + len(completion.ids) for prompt, completion, _ in answers)
    size = max(1, MAX_TOKENS // longest)
    for first in range(0, len(answers), size):
        yield from _read(bundle, vision, answers[first : first + size])


def _read(
    bundle: FutureL1, vision: FrozenVision, answers: Sequence[tuple[Encoded, Completion, int]]
) -> Iterator[dict[str, Any]]:
    model, tokens = bundle.model, bundle.tokens
    dialogues = [continued(prompt, completion.ids) for prompt, completion, _ in answers]
    lengths = [len(prompt.ids) for prompt, _, _ in answers]
    latents = [completion.latents for _, completion, _ in answers]
    noisy = _noisy(bundle, answers)
    masses = [attention_mass(model, vision, tokens, dialogues, fed, lengths) for fed in (latents, noisy)]
    nearest = nearest_tokens(model, tokens, torch.cat(latents)).split([len(fed) for fed in latents])
    lens = lens_readings(model, vision, tokens, dialogues, torch.cat(latents)).split([len(fed) for fed in latents])
    word = bundle.processor.tokenizer.decode
    for row, (dialogue, length) in enumerate(zip(dialogues, lengths, strict=True)):
        labels, closed = (of(dialogue.ids, length, tokens)[length:] for of in (slot_labels, closed_spans))
        words = zip(nearest[row].tolist(), lens[row].tolist(), strict=True)
        yield {
            "attention": [_shares(of_rows[row], labels, closed) for of_rows in masses] if len(labels) else None,
            "words": [{"nearest": word([token]), "lens": [word([i]) for i in ids]} for token, ids in words],
        }


def _noisy(bundle: FutureL1, answers: Sequence[tuple[Encoded, Completion, int]]) -> list[torch.Tensor]:
    """For each answer's latents [n,D] noise of the same norm, as the intervention `noise` feeds it."""
    device, noisy = bundle.model.device, []
    for _, completion, seed in answers:
        sizes = bundle.tokens.span_sizes(completion.ids)
        span = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.long)).to(device)
        slot = torch.cat([torch.arange(0), *map(torch.arange, sizes)]).to(device)
        replace = noise(torch.tensor([seed], device=device))
        noisy.append(replace(completion.latents, span, slot, torch.zeros_like(span)))
    return noisy


def _shares(mass: torch.Tensor, labels: torch.Tensor, closed: torch.Tensor) -> list[Any]:
    """[layers, head groups, 3]: the shares of text, frames and spans in the attention `mass` of an answer's tokens.

    Only tokens behind a closed span that are no latents count; without a closed span, all that are no latents.
    """
    behind = closed > 0
    counted = (behind if behind.any() else ~behind) & (labels == TEXT)
    by_label = mass[:, :, counted].mean(2)
    kinds = (by_label[..., TEXT], by_label[..., FRAME], by_label[..., SPAN:].sum(-1))
    return torch.stack(kinds, -1).double().round(decimals=DIGITS).tolist()
