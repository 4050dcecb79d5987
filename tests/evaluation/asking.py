"""The answering program, asked by tests."""

import json
from pathlib import Path
from typing import Any

from evaluation.generate import AnswerConfig, AnswerJob, main
from training.data import prompts
from training.data.keyframes import key_frame_number
from training.data.prompts import ANSWERS
from training.runtime.programs import Reporter

UNTIMED = [name for name in ANSWERS if not name.endswith("_seconds")]


def content(row: dict[str, Any]) -> list[prompts.Part]:
    """The user turn as SFT renders it."""
    number = key_frame_number(row["frame_count"], 1)
    asked = row["question"].replace("frame_1\n<image>\n", "")
    return [prompts.text("frame_1"), prompts.frame(row["path"], number, reader=row["reader"]), prompts.text(asked)]


def run(out: Path, *jobs: AnswerJob, reporter: Reporter | None = None) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    return main(AnswerConfig(out=out, device="cpu", jobs=list(jobs)), reporter or Reporter(out, quiet=True))


def lines(ledger: Path) -> list[tuple[str, int]]:
    """The answers in a ledger, in the order in which they were paid for."""
    records = [json.loads(line) for line in ledger.read_text().splitlines()]
    return [(record["prompt_id"], record["sample"]) for record in records]
