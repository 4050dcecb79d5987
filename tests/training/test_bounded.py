"""The bounded cache: what is kept, what goes."""

from hypothesis import given
from hypothesis import strategies as st

from training.bounded import BoundedCache


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 6)), max_size=40), st.integers(0, 12))
def test_it_never_holds_more_than_its_limit_and_counts_what_it_holds(puts: list[tuple[str, int]], limit: int) -> None:
    cache: BoundedCache[int] = BoundedCache(limit)
    for key, size in puts:
        cache.put(key, size, size)
        held = [value for key in "abcdefgh" if (value := cache.get(key)) is not None]
        assert sum(held) == cache.size <= limit


def test_the_oldest_go_first() -> None:
    cache: BoundedCache[str] = BoundedCache(2)
    for key in "abc":
        cache.put(key, key, 1)
    assert [cache.get(key) for key in "abc"] == [None, "b", "c"]
