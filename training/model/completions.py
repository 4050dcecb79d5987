"""Decoded answers, and the record of a batch that rows leave and join.  Names: B rows, S steps, D hidden size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from training.model.tokens import Tokens


def decoded_text(ids: Sequence[int], tokens: Tokens, tokenizer: Any) -> str:
    """The text of an answer's tokens with its special tokens, without the end of the turn."""
    text: str = tokenizer.decode(
        tokens.without_end(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return text


@dataclass(frozen=True)
class Completion:
    """One answer without padding: ids, log_probs [T], sampled [T], latents [n,D], noise [n], finished (see Decoded)."""

    ids: list[int]
    log_probs: torch.Tensor
    sampled: torch.Tensor
    latents: torch.Tensor
    noise: torch.Tensor
    finished: bool

    def decoded_text(self, tokens: Tokens, tokenizer: Any) -> str:
        """The text with its special tokens, without the end of the turn."""
        return decoded_text(self.ids, tokens, tokenizer)


@dataclass(frozen=True)
class Decoded:
    """Answers of B rows, right-padded with the pad token.

    ids, log_probs, sampled (neither padding nor forced) [B,S]; latents [n,D] as they were
    fed, in row-major order of `ids == latent`; latent_noise [n]: mean square of (latent - hidden state) / sigma, zero
    for deterministic latents; finished [B]: ended the turn by itself.  The seconds are those of the whole batch.
    """

    ids: torch.Tensor
    log_probs: torch.Tensor
    sampled: torch.Tensor
    latents: torch.Tensor
    latent_noise: torch.Tensor
    finished: torch.Tensor
    prefill_seconds: float
    decode_seconds: float

    def completions(self, tokens: Tokens) -> Iterator[Completion]:
        """The rows one by one; nothing is copied."""
        counts = (self.ids == tokens.latent).sum(1).tolist()
        lengths = (self.ids != tokens.pad).sum(1).tolist()
        latents, noise = self.latents.split(counts), self.latent_noise.split(counts)
        for row, (ids, n) in enumerate(zip(self.ids.tolist(), lengths, strict=True)):
            yield Completion(ids[:n], self.log_probs[row, :n], self.sampled[row, :n], latents[row], noise[row],
                             bool(self.finished[row]))  # fmt: skip


def joined(parts: Sequence[Decoded], pad: int) -> Decoded:
    """Batches as one, their rows in this order, padded to the longest answer."""
    if len(parts) == 1:
        return parts[0]
    steps = max(part.ids.shape[1] for part in parts)

    def padded(column: torch.Tensor, value: int) -> torch.Tensor:
        return torch.nn.functional.pad(column, (0, steps - column.shape[1]), value=value)

    return Decoded(
        ids=torch.cat([padded(part.ids, pad) for part in parts]),
        log_probs=torch.cat([padded(part.log_probs, 0) for part in parts]),
        sampled=torch.cat([padded(part.sampled, False) for part in parts]),
        latents=torch.cat([part.latents for part in parts]),
        latent_noise=torch.cat([part.latent_noise for part in parts]),
        finished=torch.cat([part.finished for part in parts]),
        prefill_seconds=sum(part.prefill_seconds for part in parts),
        decode_seconds=sum(part.decode_seconds for part in parts),
    )


class Record:
    """What answers emit, some of which are the rows of a batch.  rows [b]: the number of each row's answer among all;
    step [b]: the step that it is at."""

    def __init__(self, answers: int, max_new_tokens: int, tokens: Tokens, device: torch.device) -> None:
        self.rows, self.step = torch.empty(2, 0, dtype=torch.long, device=device)
        self._tokens, self._max_new_tokens = tokens, max_new_tokens
        # the last column is for what rows that are done emit after the last step
        self._ids = torch.full((answers, max_new_tokens + 1), tokens.pad, device=device)
        self._log_probs = torch.zeros_like(self._ids, dtype=torch.float32)
        self._sampled = torch.zeros_like(self._ids, dtype=torch.bool)
        self._latents: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in range(answers)]
        self._steps: list[tuple[torch.Tensor, ...]] = []

    def add(self, *emitted: torch.Tensor) -> None:
        """One step: ids, log_probs, sampled [b], vectors [b,D] as they are fed where the id is a latent, noise [b]."""
        self._steps.append(emitted)
        self.step = self.step + 1

    def select(self, index: torch.Tensor) -> None:
        """From the next step on there are only the rows with these numbers among those of the batch."""
        self._store()
        self.rows, self.step = self.rows[index], self.step[index]

    def join(self, rows: torch.Tensor) -> None:
        """From the next step on these answers are rows, too, behind the others."""
        self._store()
        self.rows, self.step = torch.cat([self.rows, rows]), torch.cat([self.step, torch.zeros_like(rows)])

    def _store(self) -> None:
        if not self._steps:
            return
        ids, log_probs, sampled, vectors, noise = (torch.stack(column, 1) for column in zip(*self._steps, strict=True))
        self._steps = []
        first, emitted = self.step.unsqueeze(1) - ids.shape[1], torch.arange(ids.shape[1], device=ids.device)
        at = self.rows.unsqueeze(1), (first + emitted).clamp(max=self._max_new_tokens)
        self._ids[at], self._log_probs[at], self._sampled[at] = ids, log_probs, sampled
        latent = ids == self._tokens.latent
        counts = latent.sum(1).tolist()
        parts = zip(vectors[latent].split(counts), noise[latent].split(counts), strict=True)
        for row, of_row in zip(self.rows.tolist(), parts, strict=True):
            self._latents[row].append(of_row)

    def decoded(self, answers: range, prefill_seconds: float, decode_seconds: float) -> Decoded:
        """These answers, which are done or at their last step."""
        self._store()
        rows = slice(answers.start, answers.stop)
        ids = self._ids[rows, : self._max_new_tokens]
        steps = max(1, int((ids != self._tokens.pad).sum(1).max()))
        latents = [part for answer in answers for part in self._latents[answer]]
        return Decoded(
            ids=ids[:, :steps],
            log_probs=self._log_probs[rows, :steps],
            sampled=self._sampled[rows, :steps],
            latents=torch.cat([vectors for vectors, _ in latents]),
            latent_noise=torch.cat([noise for _, noise in latents]),
            finished=(ids[:, -1] == self._tokens.pad) | (ids[:, -1] == self._tokens.end_of_turn),
            prefill_seconds=prefill_seconds,
            decode_seconds=decode_seconds,
        )
