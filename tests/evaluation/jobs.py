"""Generation jobs, as tests run them: by the program, or by an engine alone."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evaluation.generate import main
from evaluation.generation.config import GenerationConfig
from evaluation.generation.jobs import AnswerJob, GenerateConfig, InterventionName
from evaluation.generation.requests import Answer, Engine, LedgerSummary, Refusal, Request
from training.data import parts
from training.data.keyframes import key_frame_number
from training.data.prompts import ANSWERS
from training.runtime.programs import Reporter

UNTIMED = [name for name in ANSWERS if not name.endswith("_seconds")]


def content(row: dict[str, Any]) -> list[parts.Part]:
    """The user turn as SFT renders it."""
    number = key_frame_number(row["frame_count"], 1)
    question = row["question"].replace("frame_1\n<image>\n", "")
    return [parts.text("frame_1"), parts.frame(row["path"], number, reader=row["reader"]), parts.text(question)]


def run(out: Path, *jobs: AnswerJob, reporter: Reporter | None = None) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    return main(GenerateConfig(out=out, device="cpu", jobs=list(jobs)), reporter or Reporter(out, quiet=True))


def generate(
    engine: Engine,
    checkpoint: Path | None,
    generation: GenerationConfig,
    intervention: InterventionName,
    requests: Sequence[Request],
    ledger: LedgerSummary | None = None,
    keep_latents: bool = False,
) -> Iterator[Answer | Refusal]:
    """An engine's replies to requests, without a table of prompts."""
    job = AnswerJob(
        name="answers", checkpoint=checkpoint, prompts=Path("none.parquet"), generation=generation,
        intervention=intervention, keep_latents=keep_latents,
    )  # fmt: skip
    return engine.generate(job, requests, ledger or LedgerSummary())


def lines(ledger: Path) -> list[tuple[str, int]]:
    """The answers in a ledger, in the order in which they were paid for."""
    records = [json.loads(line) for line in ledger.read_text().splitlines()]
    return [(record["prompt_id"], record["sample"]) for record in records]
