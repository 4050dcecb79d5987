"""What `make bench` prints.  A benchmark asserts that both ways give the same, and never looks at the clock itself."""

import time
from collections.abc import Callable

import pytest

Compare = Callable[[str, Callable[[], object], Callable[[], object], int], None]


@pytest.fixture
def compare(capsys: pytest.CaptureFixture[str]) -> Compare:
    """Prints how many times longer the first way takes than the second: the best of three runs each, in turn."""

    def seconds(way: Callable[[], object]) -> float:
        started = time.perf_counter()
        way()
        return time.perf_counter() - started

    def run(name: str, slow: Callable[[], object], fast: Callable[[], object], n: int) -> None:
        runs = [(seconds(slow), seconds(fast)) for _ in range(3)]
        a, b = (min(times) for times in zip(*runs, strict=True))
        with capsys.disabled():
            print(f"\n{name}: {a / b:.2f} x ({a:.3f} s vs {b:.3f} s, n={n})")

    return run
