"""Files that are whole or absent, whenever the process that writes them dies."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
"""A disk that is full, or that may not be written: no further try helps, until somebody does something."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A fresh file to write, which takes the place of `path` when the context ends without an error.

    For one writer at a time: the next one overwrites what a killed one left.
    """
    fresh = path.with_name(f".{path.name}.fresh")
    yield fresh
    fresh.replace(path)
