"""Samples: every row as often, spans by their probability, and the same list every time."""

from collections import Counter

import numpy as np
import pytest

from training.sft.sampler import Sample, sample_rows

DEPTHS = [1, 2, 3, 5] * 25


def test_an_epoch_shows_every_row_once_and_the_next_in_another_order() -> None:
    samples = sample_rows(DEPTHS, 4, (1.0, 1.0, 1.0), group_by_length=False, seed=0, global_batch_size=4, epochs=2)
    first, second = [row for row, *_ in samples[:100]], [row for row, *_ in samples[100:]]
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second


def test_samples_depend_on_the_seed_alone() -> None:
    def sampled(seed: int) -> list[Sample]:
        return sample_rows(DEPTHS, 4, (0.8, 0.5, 0.2), group_by_length=True, seed=seed, global_batch_size=4, total=60)

    assert sampled(3) == sampled(3) != sampled(4)


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    probabilities = (0.8, 0.5, 0.2)
    assert sample_rows(DEPTHS, 4, probabilities, True, 0, global_batch_size=4, total=80)[:40] == sample_rows(
        DEPTHS, 4, probabilities, True, 0, global_batch_size=4, total=40
    )


def test_rows_keep_their_spans_with_the_probability_of_their_depth() -> None:
    samples = sample_rows(DEPTHS, 4, (1.0, 0.5, 0.25), group_by_length=False, seed=0, global_batch_size=4, total=20_000)
    kept = {depth: np.mean([spans for row, spans, _ in samples if DEPTHS[row] == depth]) for depth in (1, 2, 3, 5)}
    assert kept == {1: 1.0, 2: pytest.approx(0.5, abs=0.03), 3: pytest.approx(0.25, abs=0.03), 5: kept[5]}
    assert kept[5] == pytest.approx(0.25, abs=0.03), "three future frames or more have one probability"


def test_the_text_only_control_keeps_none() -> None:
    assert not any(
        spans for _, spans, _ in sample_rows(DEPTHS, 4, (0.0, 0.0, 0.0), True, 0, global_batch_size=4, total=500)
    )


def test_a_grouped_batch_has_one_shape() -> None:
    samples = sample_rows(DEPTHS, 8, (0.5, 0.5, 0.5), group_by_length=True, seed=1, global_batch_size=8, total=400)
    shapes = [{(DEPTHS[row], spans) for row, spans, _ in samples[i : i + 8]} for i in range(0, 400, 8)]
    assert all(len(shape) == 1 for shape in shapes)
    assert len({next(iter(shape)) for shape in shapes}) == 8, "all depths, with and without spans, are met"


def test_groups_keep_the_proportions() -> None:
    samples = sample_rows(
        [1] * 60 + [2] * 30 + [3] * 10,
        4,
        (1.0, 1.0, 1.0),
        group_by_length=True,
        seed=0,
        global_batch_size=4,
        total=4000,
    )
    count = Counter(row for row, *_ in samples)
    assert max(count.values()) - min(count.values()) <= 2


def test_epochs_in_groups_show_every_row_once_too() -> None:
    samples = sample_rows(DEPTHS, 8, (0.5, 0.5, 0.5), group_by_length=True, seed=1, global_batch_size=8)
    assert sorted(row for row, _, counts in samples if counts) == list(range(100))


def test_the_last_step_is_filled_with_samples_that_do_not_count() -> None:
    samples = sample_rows([1] * 13, 4, (1.0, 1.0, 1.0), group_by_length=False, seed=0, global_batch_size=8)
    assert [counts for *_, counts in samples] == [True] * 13 + [False] * 3
    assert sorted(row for row, _, counts in samples if counts) == list(range(13))
    assert not any(spans for _, spans, counts in samples if not counts), "nor do they make the batch longer"
