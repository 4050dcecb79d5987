"""What stays in memory, so that going back costs nothing: bounded in bytes, whatever the size of model and frames."""

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from cachetools import LRUCache

K = TypeVar("K")
V = TypeVar("V")


class Kept(LRUCache[K, V]):
    """The values that were used last, of at most `limit` bytes by `size` together."""

    def __init__(self, limit: int, size: Callable[[V], int]) -> None:
        super().__init__(limit, size)

    def get_or_make(self, key: K, make: Callable[[], V]) -> V:
        """The value of a key, made where it is not here; one that is larger than all is not kept."""
        if key in self:
            return self[key]
        value = make()
        with suppress(ValueError):
            self[key] = value
        return value
