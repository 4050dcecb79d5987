"""Files that are whole or absent, whenever the process that writes them dies."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A fresh file to write, which takes the place of `path` when the context ends without an error.

    For one writer at a time: the next one overwrites what a killed one left.
    """
    fresh = path.with_name(f".{path.name}.fresh")
    yield fresh
    fresh.replace(path)
