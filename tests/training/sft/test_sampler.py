"""Samples: every row as often, spans by their probability, and the same list every time."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from tests.toy import sft_recipe
from training.sft.sampler import Sample, sample_rows

DEPTHS = [1, 2, 3, 5] * 25


def samples_of(depths: list[int], seed: int = 0, **changes: Any) -> list[Sample]:
    """Steps of four rows."""
    return sample_rows(depths, sft_recipe(**{"max_steps": None, **changes}), seed)


def test_an_epoch_shows_every_row_once_and_the_next_in_another_order() -> None:
    samples = samples_of(DEPTHS, num_train_epochs=2)
    first, second = [row for row, *_ in samples[:100]], [row for row, *_ in samples[100:]]
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second


def test_samples_depend_on_the_seed_alone() -> None:
    def sampled(seed: int) -> list[Sample]:
        return samples_of(DEPTHS, seed, latent_keep_prob=(0.8, 0.5, 0.2), group_by_length=True, max_steps=15)

    assert sampled(3) == sampled(3) != sampled(4)


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    shorter, longer = (
        samples_of(DEPTHS, latent_keep_prob=(0.8, 0.5, 0.2), group_by_length=True, max_steps=steps)
        for steps in (10, 20)
    )
    assert longer[:40] == shorter


def test_rows_keep_their_spans_with_the_probability_of_their_depth() -> None:
    samples = samples_of(DEPTHS, latent_keep_prob=(1.0, 0.5, 0.25), max_steps=5000)
    kept = {depth: np.mean([spans for row, spans, _ in samples if DEPTHS[row] == depth]) for depth in (1, 2, 3, 5)}
    assert kept == {1: 1.0, 2: pytest.approx(0.5, abs=0.03), 3: pytest.approx(0.25, abs=0.03), 5: kept[5]}
    assert kept[5] == pytest.approx(0.25, abs=0.03), "three future frames or more have one probability"


def test_the_text_only_control_keeps_none() -> None:
    samples = samples_of(DEPTHS, latent_keep_prob=(0.0, 0.0, 0.0), group_by_length=True, max_steps=125)
    assert not any(spans for _, spans, _ in samples)


def test_a_grouped_batch_has_one_shape() -> None:
    samples = samples_of(
        DEPTHS, 1, latent_keep_prob=(0.5, 0.5, 0.5), group_by_length=True, global_batch_size=8, max_steps=50
    )
    shapes = [{(DEPTHS[row], spans) for row, spans, _ in samples[i : i + 8]} for i in range(0, 400, 8)]
    assert all(len(shape) == 1 for shape in shapes)
    assert len({next(iter(shape)) for shape in shapes}) == 8, "all depths, with and without spans, are met"


def test_groups_keep_the_proportions() -> None:
    samples = samples_of([1] * 60 + [2] * 30 + [3] * 10, group_by_length=True, max_steps=1000)
    count = Counter(row for row, *_ in samples)
    assert max(count.values()) - min(count.values()) <= 2


def test_epochs_in_groups_show_every_row_once_too() -> None:
    samples = samples_of(DEPTHS, 1, latent_keep_prob=(0.5, 0.5, 0.5), group_by_length=True, global_batch_size=8)
    assert sorted(row for row, _, counts in samples if counts) == list(range(100))


def test_the_last_step_is_filled_with_samples_that_do_not_count() -> None:
    samples = samples_of([1] * 13, global_batch_size=8)
    assert [counts for *_, counts in samples] == [True] * 13 + [False] * 3
    assert sorted(row for row, _, counts in samples if counts) == list(range(13))
    assert not any(spans for _, spans, counts in samples if not counts), "nor do they make the batch longer"
