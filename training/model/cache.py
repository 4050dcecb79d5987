"""A KV cache that grows in slabs: a step writes its keys and values in place, where transformers' own copies all of
them."""

from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

SLAB = 64  # slots: a layer's cache is copied once in so many steps


class SlabLayer(CacheLayerMixin):
    """The cache of one layer: `keys` and `values` are views [B,heads,slots,width] of buffers with room for more."""

    def __init__(self) -> None:
        super().__init__()
        self._length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Buffers without slots."""
        self._buffers = key_states[:, :, :0], value_states[:, :, :0]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_options: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values, the new ones at the end."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin, end = self._length, self._length + key_states.shape[-2]
        if end > self._buffers[0].shape[-2]:
            self._buffers = self._grown(self._buffers[0], end), self._grown(self._buffers[1], end)
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, begin:end] = states
        return self._view(end)

    def _grown(self, buffer: torch.Tensor, length: int) -> torch.Tensor:
        rows, heads, _, width = buffer.shape
        larger = buffer.new_empty(rows, heads, -(-length // SLAB) * SLAB, width)
        larger[:, :, : self._length] = buffer[:, :, : self._length]
        return larger

    def _view(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        self._length = length
        self.keys, self.values = self._buffers[0][:, :, :length], self._buffers[1][:, :, :length]
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """The rows with these numbers, in this order; a number may be repeated."""
        self._buffers = self._buffers[0].index_select(0, beam_idx), self._buffers[1].index_select(0, beam_idx)
        self._view(self._length)

    def drop(self, slots: int) -> None:
        """Without its first slots, whose memory is free when the buffers grow next."""
        self._buffers = self._buffers[0][:, :, slots:], self._buffers[1][:, :, slots:]
        self._view(self._length - slots)

    def join(self, other: "SlabLayer", index: torch.Tensor) -> None:
        """The rows of another layer with these numbers behind its own; the shorter ones begin with zeros."""
        length = max(self._length, other._length)
        self._buffers = (
            self._joined(self.keys, other.keys.index_select(0, index), length),
            self._joined(self.values, other.values.index_select(0, index), length),
        )
        self._view(length)

    def _joined(self, mine: torch.Tensor, theirs: torch.Tensor, length: int) -> torch.Tensor:
        rows, heads, _, width = mine.shape
        joined = mine.new_zeros(rows + len(theirs), heads, -(-(length + 1) // SLAB) * SLAB, width)
        joined[:rows, :, length - mine.shape[-2] : length] = mine
        joined[rows:, :, length - theirs.shape[-2] : length] = theirs
        return joined

    def get_seq_length(self) -> int:
        """Slots that are filled."""
        return self._length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Slots after the next update, and the number of the first one."""
        return self._length + query_length, 0

    def get_max_length(self) -> int:
        """-1: there is no bound."""
        return -1


def slab_cache(layers: int) -> Cache:
    """An empty cache."""
    return Cache(layers=[SlabLayer() for _ in range(layers)])
