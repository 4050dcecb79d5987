"""The judge against a server that takes 50 ms for a reply, however many it is asked at a time."""

import time

import pytest

from tests.performance.conftest import LATENCY
from training.grading.judge import Judge, JudgeItem, JudgeSettings

CONCURRENCY, AT_ONCE, ONE_BY_ONE = 32, 1000, 40


def rate(url: str, concurrency: int, n: int) -> float:
    """Verdicts a second, the start of the client included."""
    judge = Judge(JudgeSettings(base_url=url, model="served", concurrency=concurrency))
    started = time.perf_counter()
    verdicts = judge.verdicts([JudgeItem("What next?", "it falls", f"it rises {i}") for i in range(n)])
    seconds = time.perf_counter() - started
    assert verdicts == ["incorrect"] * n and judge.counts["requests"] == n
    return n / seconds


def test_verdicts_a_second_against_the_bound_and_one_by_one(judge_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    rate(judge_url, CONCURRENCY, CONCURRENCY)  # imports
    together = max(rate(judge_url, CONCURRENCY, AT_ONCE) for _ in range(3))
    alone = max(rate(judge_url, 1, ONE_BY_ONE) for _ in range(3))
    bound = CONCURRENCY / LATENCY
    with capsys.disabled():
        print(
            f"\njudge, {CONCURRENCY} requests of {LATENCY * 1e3:.0f} ms at a time, against one: "
            f"{together / alone:.2f} x ({together:.0f} against {alone:.0f} verdicts a second, n={AT_ONCE}); "
            f"{together / bound:.2f} of the bound of {bound:.0f}"
        )
