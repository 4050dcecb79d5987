"""Draws: every row as often, spans in their shares, and the same list every time."""

from collections import Counter

import numpy as np
import pytest

from training.sft.sampler import draw_rows

DEPTHS = [1, 2, 3, 5] * 25


def test_an_epoch_shows_every_row_once_and_the_next_in_another_order() -> None:
    draws = draw_rows(DEPTHS, 4, (1.0, 1.0, 1.0), bucket=False, seed=0, epochs=2)
    first, second = [row for row, *_ in draws[:100]], [row for row, *_ in draws[100:]]
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second


def test_draws_depend_on_the_seed_alone() -> None:
    def drawn(seed: int) -> list[tuple[int, bool, bool]]:
        return draw_rows(DEPTHS, 4, (0.8, 0.5, 0.2), bucket=True, seed=seed, total=60)

    assert drawn(3) == drawn(3) != drawn(4)


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    shares = (0.8, 0.5, 0.2)
    assert draw_rows(DEPTHS, 4, shares, True, 0, total=80)[:40] == draw_rows(DEPTHS, 4, shares, True, 0, total=40)


def test_rows_keep_their_spans_in_the_share_of_their_depth() -> None:
    draws = draw_rows(DEPTHS, 4, (1.0, 0.5, 0.25), bucket=False, seed=0, total=20_000)
    kept = {depth: np.mean([spans for row, spans, _ in draws if DEPTHS[row] == depth]) for depth in (1, 2, 3, 5)}
    assert kept == {1: 1.0, 2: pytest.approx(0.5, abs=0.03), 3: pytest.approx(0.25, abs=0.03), 5: kept[5]}
    assert kept[5] == pytest.approx(0.25, abs=0.03), "three future frames or more share one share"


def test_the_text_only_control_keeps_none() -> None:
    assert not any(spans for _, spans, _ in draw_rows(DEPTHS, 4, (0.0, 0.0, 0.0), True, 0, total=500))


def test_a_bucketed_batch_has_one_shape() -> None:
    draws = draw_rows(DEPTHS, 8, (0.5, 0.5, 0.5), bucket=True, seed=1, total=400)
    shapes = [{(DEPTHS[row], spans) for row, spans, _ in draws[i : i + 8]} for i in range(0, 400, 8)]
    assert all(len(shape) == 1 for shape in shapes)
    assert len({next(iter(shape)) for shape in shapes}) == 8, "all depths, with and without spans, are met"


def test_buckets_keep_the_proportions() -> None:
    draws = draw_rows([1] * 60 + [2] * 30 + [3] * 10, 4, (1.0, 1.0, 1.0), bucket=True, seed=0, total=4000)
    count = Counter(row for row, *_ in draws)
    assert max(count.values()) - min(count.values()) <= 2


def test_epochs_in_buckets_show_every_row_once_too() -> None:
    draws = draw_rows(DEPTHS, 8, (0.5, 0.5, 0.5), bucket=True, seed=1)
    assert sorted(row for row, _, counts in draws if counts) == list(range(100))


def test_batches_of_all_devices_are_filled_with_draws_that_do_not_count() -> None:
    draws = draw_rows([1] * 13, 4, (1.0, 1.0, 1.0), bucket=False, seed=0, devices=2)
    assert [counts for *_, counts in draws] == [True] * 13 + [False] * 3
    assert sorted(row for row, _, counts in draws if counts) == list(range(13))
    assert not any(spans for _, spans, counts in draws if not counts), "nor do they make the batch longer"
