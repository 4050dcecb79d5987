"""An append-only log whose records are found by key: a dictionary on disk, of which memory holds 16 bytes a record.

It needs no locks and no server, so that it works on any file system: appends of one machine's processes do not mix.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.storage.files import AppendLog

MAX_RECENT = 50_000
"""Keys in the dictionary of the newest records, before they move into the arrays."""
_START, _END = b'{"key": "', b'", "'
"""Around the key of a line whose first field it is; the end is in no key, for quotes in it are escaped."""


def key_of(line: bytes) -> bytes | None:
    """The key of a log's line, as JSON writes it; None for a record that does not begin with one."""
    end = line.find(_END, len(_START))
    return line[len(_START) : end] if end >= 0 and line.startswith(_START) else None


def encoded(key: str) -> bytes:
    """A key as JSON writes it."""
    return json.dumps(key, ensure_ascii=False).encode()[1:-1]


class KeyedLog:
    """Records by key; of several with one key the last counts.  Records without a key are for readers of the file."""

    def __init__(self, path: Path) -> None:
        self.path, self._log = path, AppendLog(path)
        self._hashes, self._offsets = np.empty(0, np.int64), np.empty(0, np.int64)  # sorted by hash
        self._recent: dict[int, int] = {}

    def append(self, record: Mapping[str, Any], key: str | None = None) -> None:
        """Stores a record, under a key or without one."""
        self._log.append(record if key is None else {"key": key, **record})

    def find(self, keys: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """The keys that are there, with their records, among them what other processes stored since."""
        self._refresh()
        hashes = np.fromiter((hash(encoded(key)) for key in keys), np.int64, len(keys))
        offsets = np.full(len(keys), -1)
        if len(self._hashes):
            at = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
            offsets = np.where(self._hashes[at] == hashes, self._offsets[at], -1)
        for place, value in enumerate(hashes.tolist()):
            offsets[place] = self._recent.get(value, offsets[place])
        order = np.argsort(offsets)  # the file is read from its begin to its end
        places = order[offsets[order] >= 0].tolist()
        for place, record in zip(places, self._log.read(offsets[places].tolist()), strict=True):
            if record is not None and record["key"] == keys[place]:
                yield keys[place], record

    def close(self) -> None:
        self._log.close()

    def _refresh(self) -> None:
        for offset, line in self._log.lines():
            if (key := key_of(line)) is not None:
                self._recent[hash(key)] = offset
            if len(self._recent) >= MAX_RECENT:
                self._merge()

    def _merge(self) -> None:
        hashes = np.concatenate([np.fromiter(self._recent, np.int64), self._hashes])
        offsets = np.concatenate([np.fromiter(self._recent.values(), np.int64), self._offsets])
        self._hashes, first = np.unique(hashes, return_index=True)  # the first is the newest
        self._offsets = offsets[first]
        self._recent.clear()
