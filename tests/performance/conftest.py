"""What `make bench` prints.  A benchmark asserts that two ways give the same result, and asserts nothing about time."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from torch.profiler import ProfilerActivity, profile

from tests.midsize import midsize
from tests.performance.subject import Subject, footage_rows

LATENCY = 0.05
"""Seconds that the judge server takes for a verdict."""

ENOUGH = 2.5
"""Seconds of runs after which a comparison repeats no more."""

Way = Callable[[], object]
Compare = Callable[..., tuple[Any, Any]]
Table = Callable[[str, Sequence[str], Sequence[Sequence[object]]], None]


@dataclass(frozen=True)
class Measured:
    """Time, peak memory and result of a run; the peak is that of an earlier, untimed run."""

    seconds: float
    mib: float
    result: Any


Measure = Callable[[Way], Measured]


def peak_mib(way: Way) -> tuple[float, Any]:
    """Peak of torch's CPU allocator during `way` in MiB, as `torch.cuda.max_memory_allocated` gives it of a GPU, and
    the way's result.

    It counts activations, caches, gradients and temporaries, not the weights that were there before; `way` must free
    nothing of those.  The allocator reports each allocation to the profiler, so the figure is exact and the same in
    every run.  It leaves out other memory: libraries' scratch space, NumPy, the interpreter.  For a step of the
    mid-size model it is 655 MiB where a fresh process's VmHWM grows by 684.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = way()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 2**20, result


def _timed(way: Way) -> tuple[float, Any]:
    started = time.perf_counter()
    result = way()
    return time.perf_counter() - started, result


@pytest.fixture
def compare(capsys: pytest.CaptureFixture[str]) -> Compare:
    """Prints how many times longer the first way takes than the second: the best of three runs each, in turn, or of
    fewer where these take more than `ENOUGH` seconds.  Returns their results, which a benchmark holds to be the same.

    With `memory` also the ratio of the peaks of these two ways, which may be parts of the first two: the profiler is
    slow where there are very many operations.
    """

    def run(name: str, slow: Way, fast: Way, n: int, memory: tuple[Way, Way] | None = None) -> tuple[Any, Any]:
        fast()  # fills caches
        held = [peak_mib(way)[0] for way in memory or ()]
        runs = list[tuple[float, float]]()
        while len(runs) < 3 and sum(map(sum, runs)) < ENOUGH:
            (a, slow_result), (b, fast_result) = _timed(slow), _timed(fast)
            runs.append((a, b))
        a, b = (min(times) for times in zip(*runs, strict=True))
        peaks = f"; peak {held[0] / held[1]:.2f} x ({held[0]:.1f} vs {held[1]:.1f} MiB)" if held else ""
        with capsys.disabled():
            print(f"\n{name}: {a / b:.2f} x ({a:.3f} s vs {b:.3f} s, n={n}, best of {len(runs)}){peaks}")
        return slow_result, fast_result

    return run


@pytest.fixture
def measure() -> Measure:
    """Times a way, after one run that counts its memory and warms up."""

    def run(way: Way) -> Measured:
        held, _ = peak_mib(way)
        started = time.perf_counter()
        result = way()
        return Measured(time.perf_counter() - started, held, result)

    return run


@pytest.fixture
def table(capsys: pytest.CaptureFixture[str]) -> Table:
    """Prints a small table, its columns as wide as they need."""

    def show(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        lines = [list(head), *([str(cell) for cell in row] for row in rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        with capsys.disabled():
            print(f"\n{title}")
            for line in lines:
                print("  " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))

    return show


@pytest.fixture(scope="session", params=["tiny", "mid-size"])
def subject(request: pytest.FixtureRequest) -> Subject:
    """The tiny model that learned the format in a few steps, with toy rows; the mid-size one with rows of real
    footage."""
    if request.param == "tiny":
        return Subject("tiny", *(request.getfixturevalue(name) for name in ("sft_model", "encoder", "rows")))
    model = midsize()
    assert model.latent_config is not None
    return Subject("mid-size", model, model.encoder(model.latent_config), footage_rows())


@pytest.fixture
def judge_url() -> Iterator[str]:
    """A judge that always says "incorrect", in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.served", str(LATENCY)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()
