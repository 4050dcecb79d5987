"""The cache that grows in slabs holds what transformers' own does, and copies nothing at a step."""

import pytest
import torch
from transformers import DynamicCache

from training.model.cache import SLAB, slab_cache


@pytest.mark.parametrize("prompt", [1, SLAB - 1, SLAB, 3 * SLAB + 5])
def test_it_holds_what_transformers_own_cache_does(prompt: int) -> None:
    ours, theirs = slab_cache(2), DynamicCache()
    generator = torch.Generator().manual_seed(prompt)
    rows = 3
    for index in (None, [2, 0, 0, 1], [3, 1]):
        if index is not None:
            rows = len(index)
            for cache in (ours, theirs):
                cache.reorder_cache(torch.tensor(index))
        for new in (prompt, 1, 1, SLAB):
            for layer in range(2):
                keys, values = torch.randn(2, rows, 2, new, 4, generator=generator)
                assert ours.get_mask_sizes(new, layer) == theirs.get_mask_sizes(new, layer)
                for result, expected in zip(
                    ours.update(keys, values, layer), theirs.update(keys, values, layer), strict=True
                ):
                    assert torch.equal(result, expected)
            assert ours.get_seq_length() == theirs.get_seq_length()


def test_keys_and_values_may_have_different_dtypes() -> None:
    """Under autocast the rotated keys are float32, and the values bfloat16."""
    keys, values = slab_cache(1).update(torch.ones(1, 1, 3, 4), torch.ones(1, 1, 3, 4).bfloat16(), 0)
    assert (keys.dtype, values.dtype) == (torch.float32, torch.bfloat16)


def test_a_step_copies_nothing_until_a_slab_is_full() -> None:
    cache, step = slab_cache(1), torch.ones(2, 2, 1, 4)
    keys, values = cache.update(torch.ones(2, 2, 5, 4), torch.ones(2, 2, 5, 4), 0)
    places = (keys.data_ptr(), values.data_ptr())
    for _ in range(SLAB - 5):
        keys, values = cache.update(step, step, 0)
        assert (keys.data_ptr(), values.data_ptr()) == places
    keys, _ = cache.update(step, step, 0)
    assert keys.data_ptr() != places[0] and keys.shape[2] == SLAB + 1
