"""Rejection of one row, clip, item or image that cannot be used: a reason to count by, and never the others' end."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.runtime.printable import printable

MAX_DETAIL = 300
"""Characters of a detail: it is read by people, and what it quotes may have any length."""


class RejectedRow(ValueError):  # noqa: N818 - a row's outcome, not a failure of the program
    """A source row that is not a trajectory: `reason` is a short class to count by, `detail` says what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = _brief(detail)
        super().__init__(f"{reason}: {self.detail}")


@contextmanager
def rejecting(reason: str) -> Iterator[None]:
    """Makes any exception of one row, clip, item or image RejectedRow(reason), whose detail says what was raised.

    What is the process's own passes: an interrupt, and too little memory.
    """
    try:
        yield
    except (RejectedRow, MemoryError):
        raise
    except Exception as error:
        raise RejectedRow(reason, described(error)) from error


def described(error: Exception) -> str:
    """An exception's type, its words, and the line that raised it, by which a defect of ours is found."""
    (*_, raised) = traceback.extract_tb(error.__traceback__) or [None]
    where = f" ({Path(raised.filename).name}:{raised.lineno})" if raised else ""
    return f"{type(error).__name__}: {_brief(str(error))}{where}"


def _brief(text: str) -> str:
    return printable(text if len(text) <= MAX_DETAIL else f"{text[:MAX_DETAIL]}...")
