"""Stored answers are scored in seconds, and without the model that gave them."""

import json
import time
from pathlib import Path

import pytest

from evaluation.score import score_file

ANSWERS, WITHIN = 10_000, 10.0  # seconds


def test_ten_thousand_stored_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "answers.jsonl"
    response = f"<reason>{'It rolls on. ' * 100}</reason>\n<answer>(b)</answer>"
    with path.open("w") as lines:
        for number in range(ANSWERS):
            split = f"hop{(1, 2, 3, 5)[number % 4]}"
            answer = {"id": number, "question_type": split, "answer": "B", "response": response}
            lines.write(json.dumps(answer) + "\n")
    started = time.perf_counter()
    told = score_file("futurebench", path, "strict")
    seconds = time.perf_counter() - started
    assert told["average"]["correct"] == ANSWERS
    assert seconds < WITHIN
    with capsys.disabled():
        print(f"\nscoring {ANSWERS} answers of {len(response)} characters: {seconds:.2f} s")
