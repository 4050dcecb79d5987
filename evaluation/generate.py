"""`python -m evaluation.generate --config answer.json`: tables of prompts in, tables of answers out.

One start answers any number of jobs, since loading the libraries takes longer than many a job, with a model on this
machine (`generation.local`) or one behind an OpenAI-compatible endpoint (`generation.endpoint`).  Every answer goes to
the job's ledger as it arrives; a killed run generates only what the ledger lacks, and an answer's random stream depends
on the job's seed, the prompt and the answer's number alone, so it ends with the same answers.  Where answers borrow
latents from each other, it generates all again, in the same batches, and takes what the ledger lacks.

A job that scores visual gain goes in rounds, and generates no answer that cannot change whether its row is kept
(`generation.curtailment`); between rounds it grades: the rule first, then the judge.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from evaluation.generation.curtailment import CONDITIONS, EVEN_ODDS, ExpectedRates, VerdictCounts, next_samples
from evaluation.generation.jobs import DONOR_INTERVENTIONS, AnswerJob, GenerateConfig, VisualGainScoring
from evaluation.generation.ledger import Ledger
from evaluation.generation.requests import Engine, LedgerSummary, Prompts, Refusal, Request
from training.grading.grade import GradingItem, grade
from training.grading.judge import Judge, JudgeSettings
from training.runtime.programs import Reporter, run_program
from training.storage.files import atomic_write
from training.storage.parquet import read_parquet

REFUSALS = {"prompt_id": pl.String, "reason": pl.String, "pending": pl.Boolean}
"""Schema of the table of prompts without an answer; the next start sends those that are pending again."""


def main(config: GenerateConfig, reporter: Reporter) -> dict[str, Any]:
    """Answers every job that has no answers yet; per job: answers, refused prompts, and seconds spent on answers.

    Raises EndpointRefusesError where the endpoint or the judge will never answer as configured, and EndpointDownError
    where it is gone; the ledger keeps what was answered.
    """
    result: dict[str, Any] = {}
    engine = cache(lambda: _engine(config))  # what the ledgers hold needs no model
    for job in sorted(config.jobs, key=lambda j: (str(j.checkpoint), j.name)):
        target = (config.answers or config.out) / f"{job.name}.parquet"
        if not target.exists():
            _answer(job, engine, config.judge, target, reporter)
        table = read_parquet(target)
        seconds = float(table.select(pl.sum("prefill_seconds") + pl.sum("decode_seconds")).item())
        refused = read_parquet(target.with_suffix(".failed")).height
        result[job.name] = {"answers": table.height, "seconds": seconds, "refused": refused}
    return result


def _engine(config: GenerateConfig) -> Engine:
    """The engine, and the judge between rounds: both checked before any work."""
    if config.judge and any(job.gain for job in config.jobs):
        Judge(config.judge).preflight()
    if config.endpoint is not None:
        from evaluation.generation.endpoint import EndpointEngine

        served = EndpointEngine(config.endpoint, int(config.frames_cache_gib * 2**30))
        served.preflight()
        return served
    from evaluation.generation.local import LocalEngine  # imports torch

    return LocalEngine(config.device, config.vision_cache_gib, config.frames_cache_gib)


def _answer(
    job: AnswerJob, engine: Callable[[], Engine], judge: JudgeSettings | None, target: Path, reporter: Reporter
) -> None:
    prompts = Prompts(job.prompts, job.control)
    default_ledger = target.with_suffix(".ledger.jsonl")
    refusals: dict[str, Refusal] = {}
    with Ledger(job.ledger or default_ledger, prompts.by_key, job.keep_latents, job.checkpoint is None) as ledger:
        if job.gain:
            rounds = _gain_rounds(job, job.gain, prompts, ledger, refusals, judge)
        else:
            rounds = _single_round(job, prompts, ledger, refusals)
        for requests, done, total in rounds:
            before, dropped = len(ledger), len(refusals)
            answered = ledger.any() if job.checkpoint is None else None
            summary = LedgerSummary(len(ledger), prompts.request(answered, (0,), job.seed) if answered else None)
            for reply in engine().generate(job, requests, summary):
                if isinstance(reply, Refusal):
                    refusals[reply.prompt_id] = reply
                elif job.intervention not in DONOR_INTERVENTIONS or ledger.missing(
                    reply["prompt_id"], [reply["sample"]]
                ):
                    ledger.add(reply)
                reporter.progress(done + len(ledger) - before, total, f"answers {job.name}")
            if (len(ledger), len(refusals)) == (before, dropped):
                raise RuntimeError(f"{job.name}: {len(requests)} requests and neither an answer nor a reason")
        table = ledger.table(job.generation.samples)
    with atomic_write(target.with_suffix(".failed")) as fresh:
        rows = [(refusal.prompt_id, refusal.reason, refusal.pending) for refusal in refusals.values()]
        pl.DataFrame(rows, schema=REFUSALS, orient="row").write_parquet(fresh)
    with atomic_write(target) as fresh:
        table.write_parquet(fresh)
    default_ledger.unlink(missing_ok=True)


Rounds = Iterator[tuple[list[Request], int, int]]
"""Requests to send next, and progress: answers in the ledger or never needed, of all that there could be."""


def _single_round(job: AnswerJob, prompts: Prompts, ledger: Ledger, refusals: dict[str, Refusal]) -> Rounds:
    """All answers of all prompts; `refusals` gets the prompts that the control cannot change."""
    numbers = range(job.generation.samples)
    missing = {prompt_id: ledger.missing(prompt_id, numbers) for prompt_id in prompts.content}
    if job.intervention in DONOR_INTERVENTIONS and any(missing.values()):
        missing = dict.fromkeys(missing, tuple(numbers))
    requests = []
    for prompt_id, samples in missing.items():
        if samples:
            try:
                requests.append(prompts.request(prompt_id, samples, job.seed))
            except (ValueError, OSError) as error:
                refusals[prompt_id] = Refusal(prompt_id, str(error))
    if requests:
        yield requests, len(ledger), len(prompts.content) * len(numbers)


def _gain_rounds(
    job: AnswerJob,
    gain: VisualGainScoring,
    prompts: Prompts,
    ledger: Ledger,
    refusals: Mapping[str, Refusal],
    judge_settings: JudgeSettings | None,
) -> Rounds:
    """Rounds of both conditions' prompts until every row is settled, complete, or refused.

    The fully sampled rows go first: their shares of right and wrong answers are what is expected of the others.
    """
    rule, grader = gain.rule, _Grader(gain, prompts, judge_settings, ledger)
    rows = sorted({prompt_id.partition("/")[0] for prompt_id in prompts.content})
    of_a_row = len(CONDITIONS) * rule.samples
    fully_sampled = [row for row in rows if rule.fully_sampled(row)]
    others = [row for row in rows if not rule.fully_sampled(row)]

    def rounds(open_rows: list[str], waiting: int, expected: ExpectedRates) -> Rounds:
        while open_rows:
            requests, still_open, left = [], [], waiting * of_a_row
            for row, (plain, hint) in grader.counts(open_rows).items():
                more = next_samples(rule, plain, hint, rule.fully_sampled(row), expected)
                if not any(more.values()) or any(f"{row}/{condition}" in refusals for condition in CONDITIONS):
                    continue
                still_open.append(row)
                left += of_a_row - plain.generated - hint.generated
                for condition, count in more.items():
                    samples = ledger.missing(f"{row}/{condition}", range(rule.samples))[:count]
                    if samples:
                        requests.append(prompts.request(f"{row}/{condition}", samples, job.seed))
            open_rows = still_open
            if requests:
                yield requests, len(rows) * of_a_row - left, len(rows) * of_a_row

    yield from rounds(fully_sampled, len(others), EVEN_ODDS)
    yield from rounds(others, 0, ExpectedRates.of(list(grader.counts(fully_sampled).values())))


class _Grader:
    """Verdicts on the answers in a ledger, each graded once, counted by prompt."""

    def __init__(self, gain: VisualGainScoring, prompts: Prompts, judge: JudgeSettings | None, ledger: Ledger) -> None:
        self._prompts = prompts
        self._parser, self._samples = gain.parser, gain.rule.samples
        self._judge = Judge(judge, on_outage="raise") if judge else None
        self._ledger = ledger
        self._graded: set[tuple[str, int]] = set()
        self._counts: defaultdict[str, VerdictCounts] = defaultdict(VerdictCounts)

    def counts(self, rows: Sequence[str]) -> dict[str, tuple[VerdictCounts, VerdictCounts]]:
        """The counts (plain, hint) of the rows; answers that are new in the ledger are graded first, all at once."""
        answers = [
            answer
            for row in rows
            for condition in CONDITIONS
            for answer in self._ledger.answers(f"{row}/{condition}", self._samples)
            if (answer["prompt_id"], answer["sample"]) not in self._graded
        ]
        questions, references = self._prompts.questions, self._prompts.references
        items = [GradingItem(questions[a["prompt_id"]], references[a["prompt_id"]], a["text"]) for a in answers]
        for answer, graded in zip(answers, grade(items, self._parser, self._judge), strict=True):
            self._graded.add((answer["prompt_id"], answer["sample"]))
            counts = self._counts[answer["prompt_id"]]
            counts.generated += 1
            counts.correct += graded.verdict == "correct"
            counts.incorrect += graded.verdict == "incorrect"
        return {row: (self._counts[f"{row}/plain"], self._counts[f"{row}/hint"]) for row in rows}


if __name__ == "__main__":
    run_program(GenerateConfig, main)
