"""Hashes that decide what is sampled: they are the same for ever, or every draw moves."""

import pytest

from training.storage.hashing import stable_hash


@pytest.mark.parametrize(
    ("parts", "number"),
    [
        (("a",), 14598278634844962250),
        (("b",), 4477677635727087946),
        (("x",), 3274422879871479876),
        (("future/1",), 5545026890250203182),
        ((0, "a"), 11381658363930578919),
        (("random", "a"), 13901623653481780779),
        ((7, "frame of x\ud800"), 13410932219627545593),
        ((3, "row/plain", 2), 5316258651597750144),
        (("shuffled", 1, "é"), 4437098867587826443),
        (("audit", "row-1"), 3408109837063865158),
    ],
)
def test_a_name_has_the_same_number_for_ever(parts: tuple[object, ...], number: int) -> None:
    assert stable_hash(*parts) == number
