"""The mode of each row of a batch that is decoded: text, in a latent span, or done.  Names: B rows, V vocabulary."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from training.model.sampling import banned
from training.model.tokens import Tokens

MODEL_CHOICE = -1  # in a script: no token is forced here


@dataclass(frozen=True)
class Spans:
    """The latent budget of a span, whether the model or the budget ends it, and whether the model may open one.

    `may_open`: None allows the model to open spans where the budget is above 0; True with a budget of 0 allows spans
    that close at once; False allows no spans but those of a script.
    """

    latents: int
    end: Literal["model", "fixed"]
    may_open: bool | None = None

    @property
    def opened(self) -> bool:
        """Whether the model may open spans."""
        return self.latents > 0 if self.may_open is None else self.may_open


class Step(NamedTuple):
    """What rows emit in one step: ids [B], which of them were the model's own choice [B], and the state after it,
    `slot` and `open` [B] as ModeMachine has them."""

    ids: torch.Tensor
    sampled: torch.Tensor
    slot: torch.Tensor
    open: torch.Tensor


def next_step(
    tokens: Tokens,
    budget: int | torch.Tensor,
    model_ends: bool | torch.Tensor,
    slot: torch.Tensor,
    is_open: torch.Tensor,
    picked: torch.Tensor,
) -> Step:
    """The rules of spans, for every engine: what a row emits that has picked `picked` [B].

    `budget`: the most latents of a span; `model_ends`: whether the model's `<|latent_end|>` ends it; both may differ by
    row [B].  Whatever else is picked inside a span goes on with it.
    """
    wants_out = is_open & (picked == tokens.latent_end) & model_ends
    closing = wants_out | (is_open & (slot >= budget))
    feeding = is_open & ~closing
    ids = torch.where(feeding, tokens.latent, torch.where(closing, tokens.latent_end, picked))
    entering = ~is_open & (ids == tokens.latent_start)
    return Step(ids, ~is_open | wants_out, torch.where(feeding, slot + 1, 0), feeding | entering)


class ModeMachine:
    """The modes of all rows.

    slot [B]: 0 outside and at the start of a span, else how many of its latents have been fed; span [B]: index of the
    current or last span, -1 before the first; open [B]: `<|latent_start|>` was emitted, the end not yet; done [B].
    """

    def __init__(self, tokens: Tokens, spans: Spans, rows: int, device: torch.device) -> None:
        self.tokens, self.spans = tokens, spans
        self.slot = torch.zeros(rows, dtype=torch.long, device=device)
        self.span = torch.full((rows,), -1, device=device)
        self.open = torch.zeros(rows, dtype=torch.bool, device=device)
        self.done = torch.zeros(rows, dtype=torch.bool, device=device)

    def forbid(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits [B,V] after the bans; inside a span the model may continue it or end it."""
        return banned(logits, self.tokens, self.open, self.spans.opened)

    def advance(
        self, picked: torch.Tensor, forced_end: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens that are really emitted [B], and which of them were the model's own choice [B].

        `forced_end` [B]: where a script ends the open span, whatever else may end it.
        """
        t, running = self.tokens, ~self.done
        is_open, picked = self.open & running, picked.where(running, t.pad)
        ends: bool | torch.Tensor = self.spans.end == "model"
        if forced_end is not None:
            ends = forced_end | ends
        step = next_step(t, self.spans.latents, ends, self.slot, is_open, picked)
        self.span = self.span + (step.open & (step.slot == 0)).long()
        self.done = self.done | (~is_open & ((step.ids == t.end_of_turn) | (step.ids == t.pad)))
        self.slot, self.open = step.slot, step.open
        return step.ids, step.sampled & running

    def select(self, index: torch.Tensor) -> None:
        """The rows with these numbers, in this order."""
        self.slot, self.span = self.slot[index], self.span[index]
        self.open, self.done = self.open[index], self.done[index]

    def add(self, rows: int) -> None:
        """As many new rows behind the others."""
        new = ModeMachine(self.tokens, self.spans, rows, self.slot.device)
        self.slot, self.span = torch.cat([self.slot, new.slot]), torch.cat([self.span, new.span])
        self.open, self.done = torch.cat([self.open, new.open]), torch.cat([self.done, new.done])
