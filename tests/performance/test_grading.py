"""Verdicts a second of a judge that takes 50 ms for a reply, and the scoring of stored answers without their model."""

import json
import time
from pathlib import Path

import pytest

from evaluation.score import score_file
from tests.performance.conftest import LATENCY
from training.grading.judge import Judge, JudgeItem, JudgeSettings

CONCURRENCY, AT_ONCE, ONE_BY_ONE = 32, 500, 20
ANSWERS = 10_000


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


def test_ten_thousand_stored_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "answers.jsonl"
    response = f"<reason>{'It rolls on. ' * 100}</reason>\n<answer>(b)</answer>"
    with path.open("w") as lines:
        for number in range(ANSWERS):
            split = f"hop{(1, 2, 3, 5)[number % 4]}"
            answer = {"id": number, "question_type": split, "answer": "B", "response": response}
            lines.write(json.dumps(answer) + "\n")
    started = time.perf_counter()
    report = score_file("futurebench", path, "strict")
    seconds = time.perf_counter() - started
    assert report["average"]["correct"] == ANSWERS
    with capsys.disabled():
        print(f"\nscoring {ANSWERS} answers of {len(response)} characters: {seconds:.2f} s")
