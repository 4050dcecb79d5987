"""Decoded answers, and the record of a batch whose finished rows leave it.  Names: B rows, S steps, D hidden size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from training.model.tokens import Tokens


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
        ids = tokens.without_end(self.ids)
        return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


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
    """What each step of a batch emits.  `rows` [b]: the places, in the whole batch, of the rows that are left."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self.rows = torch.arange(rows, device=device)
        self._n_rows = rows
        self._steps: list[tuple[torch.Tensor, ...]] = []
        self._parts: list[tuple[torch.Tensor, ...]] = []  # rows, and what they emitted

    def add(self, *emitted: torch.Tensor) -> None:
        """One step: ids, log_probs, sampled [b], vectors [b,D] as they are fed where the id is a latent, noise [b]."""
        self._steps.append(emitted)

    def select(self, index: torch.Tensor) -> None:
        """From the next step on there are only the rows with these numbers among those that are left."""
        self._close_part()
        self.rows = self.rows[index]

    def _close_part(self) -> None:
        self._parts.append((self.rows, *(torch.stack(column, 1) for column in zip(*self._steps, strict=True))))
        self._steps = []

    def decoded(self, tokens: Tokens, done: torch.Tensor, prefill_seconds: float, decode_seconds: float) -> Decoded:
        """The whole batch.  `done` [b] is that of the rows that are left; the others are done."""
        self._close_part()
        n, steps = self._n_rows, sum(ids.shape[1] for _, ids, *_ in self._parts)
        ids = self.rows.new_full((n, steps), tokens.pad)
        log_probs, sampled = torch.zeros_like(ids, dtype=torch.float32), torch.zeros_like(ids, dtype=torch.bool)
        begin, places, latents, noise = 0, [], [], []
        for rows, part_ids, part_log_probs, part_sampled, vectors, part_noise in self._parts:
            at = slice(begin, begin + part_ids.shape[1])
            ids[rows, at], log_probs[rows, at], sampled[rows, at] = part_ids, part_log_probs, part_sampled
            latent = part_ids == tokens.latent
            step = torch.arange(at.start, at.stop, device=rows.device)
            places.append((rows.unsqueeze(1) * steps + step)[latent])
            latents.append(vectors[latent])
            noise.append(part_noise[latent])
            begin = at.stop
        order = torch.cat(places).argsort()
        finished = torch.ones(n, dtype=torch.bool, device=ids.device)
        finished[self.rows] = done
        return Decoded(
            ids=ids, log_probs=log_probs, sampled=sampled, latents=torch.cat(latents)[order],
            latent_noise=torch.cat(noise)[order], finished=finished,
            prefill_seconds=prefill_seconds, decode_seconds=decode_seconds,
        )  # fmt: skip
