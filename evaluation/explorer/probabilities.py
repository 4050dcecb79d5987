"""The options' probabilities along an answer: at each of its joints, how likely each option would be the answer now.

A joint is the beginning, and the end of each reason and of each span.  `<answer>`, an option and `</answer>` are put
behind the answer so far, and all such dialogues are one parallel replay with the answer's own latents.  An option may
be written as its letter or as its text: the probabilities of both are added.  What is left of 1 is anything else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from training.model.checkpoint import FutureL1
from training.model.completions import Completion
from training.model.encoding import Encoded, collate, continued
from training.model.masking import Masking, replay_mask
from training.model.sampling import banned
from training.model.splice import inputs_of, spliced_forward
from training.model.tokens import LATENT_END
from training.model.vision import FrozenVision

MAX_JOINTS = 24
ROW_TOKENS = 16384
"""Tokens of the dialogues that are replayed at once, or one dialogue of more."""
OPENING, CLOSING, REASON_END = "<answer>", "</answer>", "</reason>"


@dataclass(frozen=True)
class Joint:
    """A place in an answer: the number of tokens before it, and how many spans and reasons have ended before it."""

    tokens: int
    spans: int
    reasons: int


def joints(ids: Sequence[int], tokenizer: Any) -> list[Joint]:
    """The joints of an answer in order, blanks behind a segment counted to it; at most MAX_JOINTS, the first and the
    last among them."""
    pieces = [tokenizer.decode([token], skip_special_tokens=False) for token in ids]
    text, places = "", {0: Joint(0, 0, 0)}
    for count, piece in enumerate(pieces, start=1):
        text += piece
        if OPENING in text:
            break
        if text.rstrip().endswith((REASON_END, LATENT_END)):
            spans, reasons = text.count(LATENT_END), text.count(REASON_END)
            places[spans + reasons] = Joint(count, spans, reasons)
    every = list(places.values())
    if len(every) <= MAX_JOINTS:
        return every
    return [every[round(place * (len(every) - 1) / (MAX_JOINTS - 1))] for place in range(MAX_JOINTS)]


@torch.no_grad()
def option_probabilities(
    bundle: FutureL1, vision: FrozenVision, prompt: Encoded, completion: Completion, places: Sequence[Joint],
    options: Mapping[str, str], masking: Masking | None = None,
) -> list[dict[str, float]]:  # fmt: skip
    """Of each place the probability of each option (letter to text), by letter; masking: the answer's."""
    tokenizer, ids = bundle.processor.tokenizer, completion.ids
    opening = _ids(tokenizer, OPENING)
    forms = [(letter, _ids(tokenizer, f"{OPENING}{form}{CLOSING}"))
             for letter, text in options.items() for form in dict.fromkeys((letter, text))]  # fmt: skip
    rows = [(place, letter, form) for place in places for letter, form in forms]
    dialogues = [continued(prompt, [*ids[: place.tokens], *form]) for place, _, form in rows]
    scored = [len(form) - _common(opening, form) for _, _, form in rows]
    longest = max(len(dialogue.ids) for dialogue in dialogues)
    size = max(1, ROW_TOKENS // longest)
    log_probs: list[float] = []
    for first in range(0, len(rows), size):
        at = slice(first, first + size)
        log_probs += _log_probs(
            bundle, vision, dialogues[at], scored[at], len(prompt.ids), completion.latents, masking
        )
    result = [dict.fromkeys(options, 0.0) for _ in places]
    for number, ((_, letter, _), log_prob) in enumerate(zip(rows, log_probs, strict=True)):
        result[number // len(forms)][letter] += float(torch.tensor(log_prob).exp())
    return result


def _log_probs(
    bundle: FutureL1, vision: FrozenVision, dialogues: Sequence[Encoded], scored: Sequence[int], prompt: int,
    latents: torch.Tensor, masking: Masking | None,
) -> list[float]:  # fmt: skip
    """The log-probability of the last `scored` tokens of each dialogue, together."""
    tokens, device = bundle.tokens, bundle.model.device
    batch = collate(dialogues, tokens.pad)
    inputs = inputs_of(batch, vision, device)
    if masking is not None:
        mask = replay_mask(dialogues, [prompt] * len(dialogues), tokens, masking, bundle.model.dtype)
        inputs["attention_mask"] = mask.to(device)
    is_latent = inputs["input_ids"] == tokens.latent
    fed = torch.cat([latents[: dialogue.ids[prompt:].count(tokens.latent)] for dialogue in dialogues])
    at = torch.zeros_like(is_latent)
    for row, (dialogue, count) in enumerate(zip(dialogues, scored, strict=True)):
        at[row, len(dialogue.ids) - 1 - count : len(dialogue.ids) - 1] = True
    _, logits = spliced_forward(bundle.model, inputs, is_latent, fed.to(device), at)
    outside = torch.zeros(len(logits), dtype=torch.bool, device=device)
    chosen = inputs["input_ids"].roll(-1, 1)[at].unsqueeze(-1)
    each = banned(logits.float(), tokens, outside).log_softmax(-1).gather(-1, chosen)[:, 0]
    return [float(part.sum()) for part in each.split(list(scored))]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
