"""What stays in memory is bounded in bytes."""

from evaluation.explorer.kept import Kept


def test_the_values_used_last_stay_while_they_have_room() -> None:
    made: list[str] = []

    def value(name: str, size: int) -> bytes:
        return kept.get_or_make(name, lambda: made.append(name) or bytes(size))  # type: ignore[func-returns-value]

    kept: Kept[str, bytes] = Kept(100, len)
    assert [len(value(name, size)) for name, size in (("a", 40), ("b", 40), ("a", 40), ("c", 40))] == [40] * 4
    assert made == ["a", "b", "c"] and set(kept) == {"a", "c"} and kept.currsize == 80
    assert len(value("too large", 101)) == 101 and "too large" not in kept and kept.currsize == 80
