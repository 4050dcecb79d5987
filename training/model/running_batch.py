"""The rows that are decoded together: they leave when done, and the answers of other prompts join."""

from collections.abc import Sequence

import torch

from training.model.cache import SLAB
from training.model.completions import Record
from training.model.modes import ModeMachine
from training.model.prefill import Prefilled


class RunningBatch:
    """Rows in different steps of their answers, in one cache: each ends at its last slot, and what is left of the row
    is padding.

    owners: the prompt of each row; bias: the additive attention mask, with room for the tokens to come; None without
    padding.
    """

    def __init__(self, machine: ModeMachine, record: Record, max_new_tokens: int) -> None:
        self.machine, self.record, self._max_new_tokens = machine, record, max_new_tokens
        self.prefilled: Prefilled
        self.bias: torch.Tensor | None = None
        self.owners: list[int] = []
        self._first_slot: dict[int, int] = {}  # of the rows of each prompt that is not finished

    @property
    def slots(self) -> int:
        """Slots of the cache that are filled."""
        return self.prefilled.cache.get_seq_length()

    def join(self, prompts: Sequence[int], prefilled: Prefilled, answers: Sequence[range]) -> None:
        """As many rows of each prompt as it has answers (the numbers of each prompt's answers) behind the others."""
        device = self.record.rows.device
        repeated = [place for place, number in enumerate(prompts) for _ in answers[number]]
        slots = prefilled.cache.get_seq_length()
        if self.owners:
            self.trim()
            before = self.slots
            self.prefilled.join(prefilled, torch.tensor(repeated, device=device))
            self._first_slot = {number: first + self.slots - before for number, first in self._first_slot.items()}
        else:
            if repeated != list(range(len(prompts))):
                prefilled.select(torch.tensor(repeated, device=device))
            self.prefilled = prefilled
        self._first_slot |= dict.fromkeys(prompts, self.slots - slots)
        self.owners += [prompts[place] for place in repeated]
        self.machine.add(len(repeated))
        self.record.join(torch.tensor([answer for number in prompts for answer in answers[number]], device=device))
        self._update_bias()

    def finish(self, live: Sequence[int]) -> list[int]:
        """The prompts that have no answer left among those that go on (`live`: the prompt of each)."""
        finished = [number for number in self._first_slot if number not in set(live)]
        for number in finished:
            del self._first_slot[number]
        if self._first_slot and min(self._first_slot.values()) >= SLAB:
            self.trim()
        return finished

    def select(self, left: Sequence[int]) -> torch.Tensor:
        """Only these rows stay; their index [b]."""
        index = torch.tensor(left, dtype=torch.long, device=self.record.rows.device)
        self.machine.select(index)
        self.record.select(index)
        self.owners = [self.owners[row] for row in left]
        self.prefilled.select(index)  # also of no row: what joins next finds the cache's memory free
        self.bias = None if self.bias is None else self.bias[index]
        return index

    def attention_mask(self, _ids: torch.Tensor) -> torch.Tensor | None:
        """The additive attention mask [B,1,1,slots+1] of the step that feeds these tokens [B]; None without padding."""
        return None if self.bias is None else self.bias[..., : self.slots + 1]

    def trim(self) -> None:
        """Drops the first slots as far as no answer that goes on has anything there."""
        unused = min(self._first_slot.values())
        if unused:
            self.prefilled.drop(unused)
            self._first_slot = {number: first - unused for number, first in self._first_slot.items()}
            self._update_bias()

    def _update_bias(self) -> None:
        mask = self.prefilled.mask
        self.bias = None if mask is None else attention_bias(mask, self._max_new_tokens, self.prefilled.hidden.dtype)


def attention_bias(mask: torch.Tensor, new_tokens: int, dtype: torch.dtype) -> torch.Tensor:
    """The additive attention mask [B,1,1,P+S] over the filled slots and those of the new tokens: minus infinity for
    padding.  transformers uses it as it is; to make one from a mask, it would wait for the device at each step."""
    bias = torch.zeros(len(mask), 1, 1, mask.shape[1] + new_tokens, dtype=dtype, device=mask.device)
    bias[:, 0, 0, : mask.shape[1]].masked_fill_(mask == 0, -torch.inf)
    return bias
