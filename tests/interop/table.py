"""The table of `make interop`: a row says how many of the cases came out as they must."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Column, Table


@dataclass(frozen=True)
class Check:
    """`equal` of `of` cases are as they must be; `what` was tried with which program, `program`."""

    what: str
    program: str
    equal: int
    of: int

    @property
    def passed(self) -> bool:
        """Whether all cases are right, and there are any."""
        return self.equal == self.of > 0


Timed = tuple[Check, float]
"""A check and the seconds that it took."""


def timed(checks: Iterator[Check]) -> Iterator[Timed]:
    """Each check with the seconds since the one before."""
    start = time.monotonic()
    for check in checks:
        yield check, time.monotonic() - start
        start = time.monotonic()


def show(rows: list[Timed]) -> None:
    """Prints the checks as one table, failed ones in red."""
    numbers = (Column(name, justify="right") for name in ("equal", "of", "seconds"))
    table = Table("what", "with", *numbers)
    for check, seconds in rows:
        style = None if check.passed else "bold red"
        table.add_row(check.what, check.program, str(check.equal), str(check.of), f"{seconds:.0f}", style=style)
    Console(width=140).print(table)
