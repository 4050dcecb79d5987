"""Imports without the garbage collector."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Context for imports of torch, Dagster and the like.

    They make a million objects and next to no garbage, for which the collector would search all of them again and
    again: a fifth of a program's start.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
