"""Rollouts: sampled completions with all that an exact replay needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from training.grading.form import SPAN, Runs
from training.model.completions import Completion, Decoded
from training.model.encoding import Encoded, collate, continued
from training.model.sampling import banned
from training.model.tokens import Tokens
from training.model.vision import Patches


@dataclass(frozen=True, kw_only=True)
class Rollout(Completion):
    """A completion with the trajectory row that it answers, the seed that it was sampled with, and its text (with
    special tokens, without the end of turn) and runs of the grammar."""

    row: dict[str, Any]
    prompt: Encoded
    seed: int
    text: str
    runs: Runs

    def spans(self, tokens: Tokens) -> list[torch.Tensor]:
        """Latents of each span that has any [K, D]."""
        return [span for span in self.latents.split(tokens.span_sizes(self.ids)) if len(span)]


def unpack(
    rows: Sequence[Mapping[str, Any]],
    prompts: Sequence[Encoded],
    seeds: Sequence[Sequence[int]],
    decoded: Decoded,
    tokens: Tokens,
    tokenizer: Any,
) -> list[Rollout]:
    """The rollouts of a decoded batch: of each row and its prompt as many as it has seeds."""
    origins = [(r, p, seed) for r, p, of_prompt in zip(rows, prompts, seeds, strict=True) for seed in of_prompt]
    pairs = zip(origins, decoded.completions(tokens), strict=True)
    return [rollout_of(*origin, completion, tokens, tokenizer) for origin, completion in pairs]


def rollout_of(
    row: Mapping[str, Any],
    prompt: Encoded,
    seed: int,
    completion: Completion,
    tokens: Tokens,
    tokenizer: Any,
) -> Rollout:
    """The rollout of a completion: with its row, its text and its runs."""
    text, runs = completion.decoded_text(tokens, tokenizer), runs_of(completion.ids, tokens, tokenizer)
    return Rollout(**vars(completion), row=dict(row), prompt=prompt, seed=seed, text=text, runs=runs)


def runs_of(ids: Sequence[int], tokens: Tokens, tokenizer: Any) -> Runs:
    """A response as runs of text and complete spans of at least one latent, without the end of the turn."""
    ids = tokens.without_end(ids)
    runs: list[str | None] = []
    text: list[int] = []
    at = 0
    while at < len(ids):
        end = at + 1
        while end < len(ids) and ids[end] == tokens.latent:
            end += 1
        if ids[at] == tokens.latent_start and at + 1 < end < len(ids) and ids[end] == tokens.latent_end:
            runs += [tokenizer.decode(text, skip_special_tokens=False), SPAN]
            text, at = [], end + 1
        else:
            text.append(ids[at])
            at += 1
    return [*runs, tokenizer.decode(text, skip_special_tokens=False)]


def replayed(rollout: Rollout, tokens: Tokens) -> Encoded:
    """The rollout as one dialogue: the prompt's positions go on by one for every sampled or forced token.

    Raises ValueError, naming the row, when there is not one recorded latent for each latent position.
    """
    places = rollout.ids.count(tokens.latent)
    if len(rollout.latents) != places:
        raise ValueError(f"row {rollout.row.get('row_id')}, the answer of seed {rollout.seed}: "
                         f"{len(rollout.latents)} latents recorded for {places} latent positions")  # fmt: skip
    return continued(rollout.prompt, rollout.ids)


@dataclass(frozen=True)
class Replay:
    """Rollouts as one right-padded batch for the replay: ids, mask, sampled, in_span [B,T], positions [3,B,T].

    Of the sampled tokens, row by row: log_probs [n] at the time of sampling.  Of the latent positions: latents [m,D],
    and their noise [m].  in_span: whether a span was open when the token was chosen.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    observed: list[Patches]
    sampled: torch.Tensor
    in_span: torch.Tensor
    log_probs: torch.Tensor
    latents: torch.Tensor
    noise: torch.Tensor

    @classmethod
    def of(cls, rollouts: Sequence[Rollout], tokens: Tokens, device: torch.device) -> "Replay":
        """Raises ValueError as `replayed` does."""
        batch = collate([replayed(r, tokens) for r in rollouts], tokens.pad)
        sampled, in_span = torch.zeros_like(batch.ids, dtype=torch.bool), torch.zeros_like(batch.ids, dtype=torch.bool)
        for i, rollout in enumerate(rollouts):
            at = slice(len(rollout.prompt.ids), len(rollout.prompt.ids) + len(rollout.ids))
            sampled[i, at] = rollout.sampled.to("cpu")
            in_span[i, at] = torch.tensor(tokens.inside_span(rollout.ids))
        return cls(
            batch.ids.to(device),
            batch.mask.to(device),
            batch.positions.to(device),
            batch.observed,
            sampled.to(device),
            in_span.to(device),
            torch.cat([r.log_probs[r.sampled] for r in rollouts]).to(device),
            torch.cat([r.latents for r in rollouts]).to(device),
            torch.cat([r.noise for r in rollouts]).to(device),
        )


def token_log_probs(
    logits: torch.Tensor, ids: torch.Tensor, in_span: torch.Tensor, tokens: Tokens, temperature: float
) -> torch.Tensor:
    """Log-probabilities [n] of sampled tokens [n] from logits [n,V], under the decoder's own bans.

    in_span [n]: whether a span was open when the token was chosen.  The top-p cut is left out, as in the decoder's
    record.
    """
    log_probs = (banned(logits.float(), tokens, in_span) / (temperature or 1.0)).log_softmax(-1)
    return log_probs.gather(-1, ids.unsqueeze(-1))[:, 0]
