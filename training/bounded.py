"""A cache bounded by bytes: the oldest entries go first."""

from collections import OrderedDict
from typing import Generic, TypeVar

Value = TypeVar("Value")


class BoundedCache(Generic[Value]):
    """Entries of known sizes, at most `limit` bytes together; 0 keeps nothing."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self._entries: OrderedDict[str, tuple[Value, int]] = OrderedDict()

    def get(self, key: str) -> Value | None:
        """The value kept under the key."""
        entry = self._entries.get(key)
        return entry[0] if entry else None

    def put(self, key: str, value: Value, size: int) -> None:
        """Keeps a value of `size` bytes, unless it alone is beyond the limit or already here."""
        if size > self.limit or key in self._entries:
            return
        while self.size + size > self.limit:
            self.size -= self._entries.popitem(last=False)[1][1]
        self._entries[key] = (value, size)
        self.size += size
