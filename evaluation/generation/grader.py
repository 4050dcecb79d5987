"""Verdicts on the answers of a ledger, counted by prompt, between the rounds of curtailment.

The judge works beside the engine: what is answered goes to it in a thread, so that the end of a round waits for the
last answers alone.  Which answers are generated, and in which batches, does not depend on it.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from threading import Thread
from typing import NamedTuple

from evaluation.generation.curtailment import CONDITIONS, VerdictCounts
from evaluation.generation.jobs import VisualGainScoring
from evaluation.generation.ledger import Ledger
from evaluation.generation.requests import Answer, Prompts
from training.grading.grade import GradingItem, grade
from training.grading.judge import Judge, JudgeSettings
from training.grading.replies import Verdict

MIN_BATCH, MAX_BATCH = 128, 20_000
"""Answers that are graded at a time: beside the engine at least so many, since each call connects anew; in memory at
most so many."""


class _Ungraded(NamedTuple):
    prompt_id: str
    sample: int
    text: str


class Grader:
    """Grades each answer once, those of its prompts' rows."""

    def __init__(self, gain: VisualGainScoring, prompts: Prompts, ledger: Ledger, judge: JudgeSettings | None) -> None:
        self.rule = gain.rule
        self._parser, self._prompts, self._ledger = gain.parser, prompts, ledger
        self._judge = None
        if judge:
            cache = gain.judge_replies or judge.cache
            self._judge = Judge(judge.model_copy(update={"cache": cache}), on_outage="raise")
        self._graded: defaultdict[str, int] = defaultdict(int)  # a bit for each answer of a prompt
        self._counts: defaultdict[str, VerdictCounts] = defaultdict(VerdictCounts)
        self._new: list[_Ungraded] = []
        self._running: tuple[list[_Ungraded], Future[list[Verdict]]] | None = None
        self._failed = False

    def add(self, answer: Answer) -> None:
        """A new answer of the ledger, for the judge's thread.

        What fails there raises nothing and is no verdict: `counts` grades it again.
        """
        if self._judge is None or self._failed:
            return
        if len(self._new) < MAX_BATCH:  # else the judge is slower than the engine, and `counts` grades it
            self._new.append(_Ungraded(answer["prompt_id"], answer["sample"], answer["text"]))
        if len(self._new) >= MIN_BATCH and (self._running is None or self._running[1].done()):
            self._collect()
            self._running = self._new, self._start(self._new)
            self._new = []

    def counts(self, rows: Sequence[str]) -> dict[str, tuple[VerdictCounts, VerdictCounts]]:
        """The counts (plain, hint) of the rows, when all of their answers in the ledger are graded.

        Raises EndpointRefusesError and EndpointDownError where the judge gives no verdicts; the replies until then are
        stored.
        """
        self._collect()
        self._new.clear()
        ungraded = self._ungraded(rows)
        while batch := list(islice(ungraded, MAX_BATCH)):
            self._count(batch, self._verdicts(batch))
        self._failed = False
        return {row: (self._counts[f"{row}/plain"], self._counts[f"{row}/hint"]) for row in rows}

    def _start(self, batch: Sequence[_Ungraded]) -> Future[list[Verdict]]:
        """The verdicts of a thread that a program that ends does not wait for, as it would for an executor's."""
        verdicts: Future[list[Verdict]] = Future()

        def run() -> None:
            try:
                verdicts.set_result(self._verdicts(batch))
            except Exception as error:
                verdicts.set_exception(error)

        Thread(target=run, name="judge", daemon=True).start()
        return verdicts

    def _collect(self) -> None:
        """Waits for the judge's thread, and counts its verdicts."""
        if self._running is None:
            return
        batch, verdicts = self._running
        self._running = None
        if verdicts.exception() is None:
            self._count(batch, verdicts.result())
        else:
            self._failed = True

    def _ungraded(self, rows: Sequence[str]) -> Iterator[_Ungraded]:
        for row in rows:
            for condition in CONDITIONS:
                prompt_id = f"{row}/{condition}"
                graded = self._graded[prompt_id]
                left = [sample for sample in range(self.rule.samples) if not graded >> sample & 1]
                for sample, text in self._ledger.texts(prompt_id, left):
                    yield _Ungraded(prompt_id, sample, text)

    def _verdicts(self, batch: Sequence[_Ungraded]) -> list[Verdict]:
        questions, references = self._prompts.questions, self._prompts.references
        items = [GradingItem(questions[a.prompt_id], references[a.prompt_id], a.text) for a in batch]
        return [graded.verdict for graded in grade(items, self._parser, self._judge)]

    def _count(self, batch: Sequence[_Ungraded], verdicts: Sequence[Verdict]) -> None:
        for answer, verdict in zip(batch, verdicts, strict=True):
            self._graded[answer.prompt_id] |= 1 << answer.sample
            counts = self._counts[answer.prompt_id]
            counts.generated += 1
            counts.correct += verdict == "correct"
            counts.incorrect += verdict == "incorrect"
