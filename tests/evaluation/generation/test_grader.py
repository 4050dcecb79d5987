"""The judge beside the engine: the verdicts of a judge between rounds, earlier, whatever becomes of the judge."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from threading import Event
from typing import Any

import polars as pl
import pytest

from evaluation.generation import grader as module
from evaluation.generation.config import GenerationConfig
from evaluation.generation.curtailment import GainRule, VerdictCounts
from evaluation.generation.grader import Grader
from evaluation.generation.jobs import AnswerJob, GenerateConfig, VisualGainScoring
from evaluation.generation.ledger import Ledger
from evaluation.generation.requests import Answer, Prompts
from tests.evaluation.answers import answer_table
from tests.processes import environment, until
from tests.served import Served, served
from tests.training.grading.scripted import settings, toy_answer
from training.chat import client
from training.chat.endpoint import EndpointDownError, EndpointSettings
from training.data.parts import text
from training.data.prompts import prompt_frame
from training.runtime.programs import OUTAGE

ROWS, SAMPLES = ("r0", "r1", "r2"), 4
PROMPTS = [f"{row}/{condition}" for row in ROWS for condition in ("plain", "hint")]
RULE = GainRule(samples=SAMPLES, max_p_t=3)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAUSE", 0.01)
    monkeypatch.setattr(module, "MIN_BATCH", 6)


@pytest.fixture
def prompts(tmp_path: Path) -> Prompts:
    table = prompt_frame([(name, [text("What next?")]) for name in PROMPTS])
    questions = pl.Series("question", [f"What next in {name}?" for name in PROMPTS])
    table.with_columns(questions, reference=pl.lit("it falls")).write_parquet(tmp_path / "prompts.parquet")
    return Prompts(tmp_path / "prompts.parquet")


@pytest.fixture
def ledger(tmp_path: Path, prompts: Prompts) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.jsonl", prompts.by_key, SAMPLES) as opened:
        yield opened


def answers() -> Iterator[Answer]:
    """24 answers: half of the plain ones are open, six in all; the others are right by the rule."""
    for name in PROMPTS:
        for sample in range(SAMPLES):
            right = name.endswith("hint") or sample % 2
            answer = answer_table({name: f"<answer>{'It  falls.' if right else f'it rises {sample}'}</answer>"})
            yield answer.row(0, named=True) | {"sample": sample}


def grader_of(prompts: Prompts, ledger: Ledger, server: Served | None, replies: Path, retries: int = 0) -> Grader:
    gain = VisualGainScoring(rule=RULE, parser="strict", judge_replies=replies)
    judge = settings(server.url, concurrency=2, retries=retries) if server else None
    return Grader(gain, prompts, ledger, judge)


def expected() -> dict[str, tuple[VerdictCounts, VerdictCounts]]:
    return dict.fromkeys(ROWS, (VerdictCounts(4, 2, 2), VerdictCounts(4, 4, 0)))


def test_answers_are_judged_while_others_are_generated(prompts: Prompts, ledger: Ledger, tmp_path: Path) -> None:
    with served(toy_answer) as server:
        grader = grader_of(prompts, ledger, server, tmp_path / "replies")
        for answer in answers():
            ledger.add(answer)
            grader.add(answer)
        until(lambda: len(server.requests) > 0, "the judge has a request before anybody asks for counts")
        assert grader.counts(ROWS) == expected()
        judged = len(server.requests)
        assert grader.counts(ROWS) == expected() and len(server.requests) == judged
        assert grader_of(prompts, ledger, server, tmp_path / "replies").counts(ROWS) == expected()
        assert len(server.requests) == judged, "the replies are stored"


def test_counts_are_those_of_a_judge_between_rounds(prompts: Prompts, ledger: Ledger, tmp_path: Path) -> None:
    with served(toy_answer, faults=0.3, kinds=("rate", "error", "malformed")) as server:
        beside, between = (grader_of(prompts, ledger, server, tmp_path / name, retries=9) for name in "ab")
        for number, answer in enumerate(answers(), 1):
            ledger.add(answer)
            beside.add(answer)
            if number % 7 == 0:
                assert beside.counts(ROWS) == between.counts(ROWS)
        assert beside.counts(ROWS) == between.counts(ROWS) == expected()


def test_an_outage_ends_the_round_and_loses_nothing(prompts: Prompts, ledger: Ledger, tmp_path: Path) -> None:
    with served(toy_answer, script=lambda number, _: (503, b"") if number >= 3 else None) as server:
        grader = grader_of(prompts, ledger, server, tmp_path / "replies")
        for answer in answers():
            ledger.add(answer)
            grader.add(answer)  # an outage in the judge's thread stops no engine
        with pytest.raises(EndpointDownError, match="start again when it is back"):
            grader.counts(ROWS)
        failed = len(server.requests)
        server.script = lambda *_: None
        assert grader_of(prompts, ledger, server, tmp_path / "replies").counts(ROWS) == expected()
        assert len(server.requests) - failed == 3, "three of the six open answers were judged before"


def test_an_outage_that_passes_is_not_noticed(prompts: Prompts, ledger: Ledger, tmp_path: Path) -> None:
    with served(toy_answer, script=lambda number, _: (503, b"") if number < 2 else None) as server:
        grader = grader_of(prompts, ledger, server, tmp_path / "replies")
        for answer in answers():
            ledger.add(answer)
            grader.add(answer)
        assert grader.counts(ROWS) == expected()


def test_what_waits_for_a_slow_judge_is_bounded(
    prompts: Prompts, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work: list[tuple[Any, Future[Any]]] = []

    def start(self: Grader, batch: Any) -> Future[Any]:
        work.append((batch, Future()))
        return work[-1][1]

    monkeypatch.setattr(Grader, "_start", start)
    monkeypatch.setattr(module, "MAX_BATCH", 8)
    with served(toy_answer) as server:
        grader = grader_of(prompts, ledger, server, tmp_path / "replies")
        for number, answer in enumerate(answers(), 1):
            ledger.add(answer)
            if number == 24:
                [(batch, verdicts)] = work
                verdicts.set_result(grader._verdicts(batch))
            grader.add(answer)
        assert [len(batch) for batch, _ in work] == [6, 8]
        work[1][1].set_result(grader._verdicts(work[1][0]))
        assert grader.counts(ROWS) == expected(), "the others are read from the ledger"


def test_a_program_that_ends_does_not_wait_for_the_judge(tmp_path: Path) -> None:
    names = [f"r{row}/{condition}" for row in range(20) for condition in ("plain", "hint")]
    table = prompt_frame([(name, [text("What next?")]) for name in names])
    table = table.with_columns(key=pl.Series(names), question=pl.lit("What next?"), reference=pl.lit("it falls"))
    table.write_parquet(tmp_path / "prompts.parquet")
    begun, ended = Event(), Event()

    def hanging(*request: Any) -> str:
        begun.set()
        ended.wait(100)
        return toy_answer(*request)

    def outage(number: int, _: Any) -> tuple[int, bytes] | None:
        return (503, b"") if number >= 30 and begun.wait(50) else None

    with served(lambda *_: "<answer>it rises</answer>", script=outage) as server, served(hanging) as judge:
        rule = GainRule(samples=8, samples_per_round=8, full_sampling_fraction=1)
        job = AnswerJob(
            name="a",
            checkpoint=None,
            prompts=tmp_path / "prompts.parquet",
            generation=GenerationConfig(samples=8, max_new_tokens=8, batch_size=8, image_tokens=(4, 16)),
            gain=VisualGainScoring(rule=rule, parser="strict"),
        )
        endpoint = EndpointSettings(
            base_urls=(server.url,), model="served", concurrency=1, image_factor=32, retries=0
        )
        config = GenerateConfig(
            out=tmp_path / "out",
            device="cpu",
            jobs=[job],
            endpoint=endpoint,
            judge=settings(judge.url, model="served", concurrency=2),
        )
        path = tmp_path / "config.json"
        path.write_text(config.model_dump_json())
        command = [sys.executable, "-m", "evaluation.generate", "--config", str(path)]
        keys = environment(OPENAI_API_KEY="k")
        try:
            ran = subprocess.run(command, env=keys, timeout=60, stderr=subprocess.PIPE, text=True)
        finally:
            ended.set()
        assert judge.requests and ran.returncode == OUTAGE, ran.stderr


def test_without_a_judge_open_answers_are_unjudged(prompts: Prompts, ledger: Ledger, tmp_path: Path) -> None:
    grader = grader_of(prompts, ledger, None, tmp_path / "replies")
    for answer in answers():
        ledger.add(answer)
        grader.add(answer)
    assert grader.counts(ROWS) == dict.fromkeys(ROWS, (VerdictCounts(4, 2, 0), VerdictCounts(4, 4, 0)))
