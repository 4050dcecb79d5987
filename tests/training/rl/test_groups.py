"""Which process replays which answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.rl.groups import assign_answers


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.randoms(use_true_random=False))
def test_every_step_has_the_same_answers_on_any_number_of_processes(
    processes: int, updates: int, size: int, random: st.DataObject
) -> None:
    order = list(range(processes * updates * size))
    random.shuffle(order)
    owners = [random.randrange(processes) for _ in order]
    of_all = assign_answers(order, owners, processes, updates)
    assert {len(share) for share in of_all} == {updates * size}
    for update in range(updates):
        replayed = sorted(n for share in of_all for n in share[update * size : (update + 1) * size])
        assert replayed == sorted(order[update * processes * size : (update + 1) * processes * size])


@pytest.mark.parametrize("updates", [1, 2])
def test_one_process_replays_all_in_their_order(updates: int) -> None:
    assert assign_answers([3, 1, 0, 2], [0] * 4, 1, updates) == [[3, 1, 0, 2]]


def test_only_what_has_no_room_travels() -> None:
    owners = [0, 0, 0, 0, 0, 0, 1, 1]
    assert assign_answers([0, 1, 2, 6, 3, 4, 5, 7], owners, 2, 2) == [[0, 1, 3, 4], [6, 2, 7, 5]]
