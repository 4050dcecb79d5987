"""Key frames: upstream TwiFF's frame pool, and nothing but 1..8."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.keyframes import key_frame_number, key_frame_pool

GOLDEN = {  # recorded from the reference (sft.md 2.2, parse_cases.json)
    1: [0, 0, 0, 0, 0, 0, 0, 0],
    2: [0, 0, 1, 1, 1, 1, 1, 1],
    6: [1, 1, 2, 3, 4, 4, 4, 4],
    8: [1, 1, 2, 3, 4, 5, 6, 6],
    10: [1, 2, 3, 4, 5, 6, 7, 8],
    12: [1, 2, 3, 4, 6, 7, 8, 10],
    16: [1, 2, 4, 6, 8, 10, 12, 14],
    60: [1, 6, 15, 24, 34, 43, 52, 58],
    100: [1, 9, 25, 41, 57, 73, 89, 98],
    150: [1, 13, 37, 62, 86, 110, 135, 148],
    240: [1, 21, 60, 99, 139, 178, 217, 238],
    300: [1, 26, 75, 124, 174, 223, 272, 298],
    1152: [1, 97, 288, 479, 671, 862, 1053, 1150],
}


def float_pool(n: int) -> list[int]:
    """The rule as sft.md 2.2 states it, in float64."""
    first = 0 if n <= 2 else 1
    last = n - 1 if n - 2 <= first else n - 2
    count = min(6, last - first)
    edges = np.linspace(first + 1, last, count + 1).astype(int) if count else []
    pool = [first, *(int((a + b - 1) // 2) for a, b in pairwise(edges)), last]
    return pool + [last] * (8 - len(pool))


@pytest.mark.parametrize(("frames", "pool"), GOLDEN.items())
def test_pool_is_the_references(frames: int, pool: list[int]) -> None:
    assert key_frame_pool(frames) == pool


def test_integer_arithmetic_equals_the_stated_float64_rule() -> None:
    assert all(key_frame_pool(n) == float_pool(n) for n in range(1, 3000))


@given(st.integers(1, 100_000))
def test_pool_is_eight_ordered_frames_of_the_clip(frames: int) -> None:
    pool = key_frame_pool(frames)
    assert len(pool) == 8
    assert pool == sorted(pool)
    assert pool[0] >= 0 and pool[-1] < frames


@given(st.integers(10, 100_000))
def test_from_ten_frames_on_all_key_frames_differ(frames: int) -> None:
    assert len(set(key_frame_pool(frames))) == 8


@given(st.integers(1, 5000), st.integers(1, 8))
def test_index_k_names_the_kth_frame_of_the_pool(frames: int, index: int) -> None:
    assert key_frame_number(frames, index) == key_frame_pool(frames)[index - 1]


@pytest.mark.parametrize("index", [0, -1, 9, 2.0, 2.5, "3", None, True])
def test_any_other_index_is_an_error_never_another_frame(index: object) -> None:
    with pytest.raises(ValueError, match="1 to 8"):
        key_frame_number(100, index)  # type: ignore[arg-type]


def test_a_clip_without_frames_has_no_key_frames() -> None:
    with pytest.raises(ValueError, match="at least one"):
        key_frame_pool(0)
