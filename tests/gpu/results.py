"""Figures of parts, each within its own time; the table and the JSON of a run.  The standard library alone is imported
here: what a part needs is imported where it runs."""

import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any


@dataclass(frozen=True)
class Figure:
    """A measurement beside its reference; value None: not measured on this device.  ok: whether a check holds; None:
    nothing is checked."""

    name: str
    value: float | None
    unit: str
    reference: float | None = None
    reference_name: str = ""
    ok: bool | None = None


@dataclass(frozen=True)
class Part:
    """A part of a run, which takes at most so many seconds."""

    name: str
    seconds: float
    measure: Callable[[], Sequence[Figure]]


@dataclass
class Result:
    """What a part gave.  stopped: it ran out of memory or of time; error: anything else that ended it."""

    name: str
    seconds: float = 0.0
    figures: list[Figure] = field(default_factory=list)
    stopped: str | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.error is None and all(figure.ok is not False for figure in self.figures)


class OutOfTimeError(Exception):
    """Raised in a part that takes longer than it may."""


def run_part(part: Part, patience: float, out_of_memory: type[Exception], free: Callable[[], None]) -> Result:
    """A part's figures, or what ended it, at the latest after `patience` times its seconds; `free` empties the device's
    memory after it."""
    result, start = Result(part.name), time.perf_counter()
    try:
        with time_limit(patience * part.seconds):
            result.figures = list(part.measure())
    except out_of_memory as error:
        result.stopped = f"out of memory: {_first_line(error)}"
    except OutOfTimeError:
        result.stopped = f"out of time: not done after {patience * part.seconds:g} s"
    except Exception as error:
        result.error = f"{type(error).__name__}: {_first_line(error)}"
    result.seconds = time.perf_counter() - start
    free()
    return result


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Context in which OutOfTimeError is raised after so many seconds, between two steps of Python code."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]


def write(path: Path, machine: Mapping[str, Any], results: Sequence[Result]) -> None:
    """The run so far as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [{**asdict(result), "ok": result.ok} for result in results]
    path.write_text(json.dumps({**machine, "parts": parts}, indent=1) + "\n")


def table(results: Sequence[Result]) -> str:
    """A line for each figure, and for each part that gave none."""
    lines = [("part", "figure", "value", "reference", "")]
    for result in results:
        name = f"{result.name} ({result.seconds:.0f} s)"
        for figure in result.figures:
            value = "not measured" if figure.value is None else f"{_number(figure.value)} {figure.unit}"
            reference = "" if figure.reference is None else f"{_number(figure.reference)} {figure.unit}"
            verdict = {True: "ok", False: "FAILED", None: ""}[figure.ok]
            lines.append((name, figure.name, value, f"{figure.reference_name} {reference}".strip(), verdict))
            name = ""
        if result.stopped or result.error:
            lines.append((name, result.stopped or str(result.error), "", "", "FAILED" if result.error else "stopped"))
    widths = [max(len(line[i]) for line in lines if not i or line[2] or line[3]) for i in range(5)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.3g}"
