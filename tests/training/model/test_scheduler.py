"""How many of the prompts that wait join a batch."""

import pytest
import torch

from training.model.encoding import Encoded
from training.model.scheduler import Scheduler


def scheduler(limit: float, groups: str | None = None, lengths: tuple[int, ...] = (10,) * 4) -> Scheduler:
    """Prompts of two answers, which are one token long."""
    prompts = [Encoded([1] * length, [], torch.zeros(3, length), []) for length in lengths]
    return Scheduler(prompts, [[0, 1]] * len(prompts), groups, 1, limit)


@pytest.mark.parametrize(
    ("limit", "groups", "expected"),
    [
        (3 * 11 * 2, None, [0, 1]),  # a prompt of ten tokens and two answers of one is three times eleven
        (3 * 11 * 2 - 1, None, [0]),
        (3 * 11 * 4, None, [0, 1, 2, 3]),
        (1, None, [0]),  # one prompt at least
        (3 * 11 * 3, "aabb", [0, 1]),  # a group is not cut
        (3 * 11 * 3, "aaab", [0, 1, 2]),
        (3 * 11 * 3, "aaaa", [0, 1, 2]),  # but for one that does not fit
        (float("inf"), "aabb", [0, 1, 2, 3]),
    ],
)
def test_an_empty_batch_takes_as_many_prompts_as_fit(limit: float, groups: str | None, expected: list[int]) -> None:
    waiting = scheduler(limit, groups)
    assert waiting.admit([]) == expected
    assert waiting.running == expected and waiting.waiting == list(range(len(expected), 4))
    assert waiting.size == 3 * 11 * len(expected)


@pytest.mark.parametrize(
    ("limit", "groups", "live", "expected"),
    [
        (11 * 4, None, [0], [1]),  # a prompt that is decoded takes the places of its answers
        (11 * 4 - 1, None, [0], []),
        (11 * 5, None, [0, 0], [1]),
        (11 * 7, None, [0], [1, 2]),
        (11 * 7, "abbc", [0], [1, 2]),
        (11 * 7 - 1, "abbc", [0], []),  # the whole group or nothing,
        (11 * 4, "abbb", [0], []),  # also of one that never fits whole:
        (11 * 4, "abbb", [], [1]),  # it begins when the batch is empty
    ],
)
def test_a_batch_takes_the_prompts_that_fit_beside_its_answers(
    limit: float, groups: str | None, live: list[int], expected: list[int]
) -> None:
    waiting = scheduler(limit, groups)
    waiting.waiting = [1, 2, 3]
    assert waiting.admit(live) == expected
    assert waiting.running == [*dict.fromkeys(live), *expected]


def test_padding_counts() -> None:
    assert scheduler(3 * 11 * 2, lengths=(10, 11)).admit([]) == [0]
    shorter = scheduler(4 * 12, lengths=(11, 10))
    shorter.waiting = [1]
    assert shorter.admit([0]) == [1]
    longer = scheduler(4 * 12 - 1, lengths=(11, 10))
    longer.waiting = [1]
    assert longer.admit([0]) == []
    shorter.prefilled([0], 12)  # beside a prompt of twelve tokens, which has left
    shorter.waiting = [1]
    assert shorter.admit([0]) == []
