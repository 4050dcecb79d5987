"""`python -m evaluation.generate --config answer.json`: tables of prompts in, tables of answers out.

One start answers any number of jobs, since loading the libraries takes longer than many a job, with a model on this
machine (`generation.local`), served by vLLM (`generation.served`), or behind an OpenAI-compatible endpoint that has a
model of its own (`generation.endpoint`).  Every answer goes to the job's ledger as it arrives; a killed run generates
only what the ledger lacks, and an answer's random stream depends on the job's seed, the prompt and the answer's number
alone, so it ends with the same answers.  Where answers borrow latents from each other, it generates all again, in the
same batches, and takes what the ledger lacks.

A job that scores visual gain goes in rounds, and generates no answer that cannot change whether its row is kept
(`generation.curtailment`); answers are graded while the engine goes on, the last ones between rounds.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import polars as pl

from evaluation.generation.curtailment import CONDITIONS, EVEN_ODDS, ExpectedRates, next_samples
from evaluation.generation.grader import Grader
from evaluation.generation.jobs import DONOR_INTERVENTIONS, AnswerJob, GenerateConfig
from evaluation.generation.ledger import Ledger
from evaluation.generation.requests import Engine, LedgerSummary, Prompts, Refusal, Request
from training.chat.endpoint import ServerSettings
from training.grading.judge import Judge, JudgeSettings
from training.runtime.imports import importing
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
    engine = cache(partial(_engine, config))  # what the ledgers hold needs no model
    for job in sorted(config.jobs, key=lambda j: (str(j.checkpoint), j.name)):
        target = (config.answers or config.out) / f"{job.name}.parquet"
        if not target.exists():
            _answer(job, partial(engine, job.endpoint), config.judge, target, reporter)
        times = read_parquet(target, columns=("prefill_seconds", "decode_seconds"))
        seconds = float(times.sum().sum_horizontal().item())
        refused = read_parquet(target.with_suffix(".failed")).height
        result[job.name] = {"answers": times.height, "seconds": seconds, "refused": refused}
    return result


def _engine(config: GenerateConfig, servers: ServerSettings | None) -> Engine:
    """The engine, and the judge between rounds: both checked before any work; `servers`: those of a checkpoint."""
    if config.judge and any(job.gain for job in config.jobs):
        Judge(config.judge).preflight()
    frames_cache_bytes = int(config.frames_cache_gib * 2**30)
    if config.endpoint is not None:
        from evaluation.generation.endpoint import EndpointEngine

        endpoint = EndpointEngine(config.endpoint, frames_cache_bytes)
        endpoint.preflight()
        return endpoint
    if servers is not None:
        with importing():
            from evaluation.generation.served import ServedEngine

        return ServedEngine(servers, frames_cache_bytes)
    with importing():
        from evaluation.generation.local import LocalEngine

    return LocalEngine(config.device, config.vision_cache_gib, config.frames_cache_gib)


def _answer(
    job: AnswerJob, engine: Callable[[], Engine], judge: JudgeSettings | None, target: Path, reporter: Reporter
) -> None:
    prompts = Prompts(job.prompts, job.control)
    default_ledger = target.with_suffix(".ledger.jsonl")
    refusals: dict[str, Refusal] = {}
    samples, is_text = job.generation.samples, job.checkpoint is None
    with Ledger(job.ledger or default_ledger, prompts.by_key, samples, job.columns, is_text) as ledger:
        grader = Grader(job.gain, prompts, ledger, judge) if job.gain else None
        if grader:
            rounds = _gain_rounds(job, grader, prompts, ledger, refusals)
        else:
            rounds = _single_round(job, prompts, ledger, refusals)
        for requests, done, total in rounds:
            before, dropped = len(ledger), len(refusals)
            answered = ledger.any() if is_text or job.endpoint else None
            summary = LedgerSummary(len(ledger), prompts.request(answered, (0,), job.seed) if answered else None)
            for reply in engine().generate(job, requests, summary):
                if isinstance(reply, Refusal):
                    refusals[reply.prompt_id] = reply
                elif job.intervention not in DONOR_INTERVENTIONS or ledger.missing(
                    reply["prompt_id"], [reply["sample"]]
                ):
                    ledger.add(reply)
                    if grader:
                        grader.add(reply)
                reporter.progress(done + len(ledger) - before, total, f"answers {job.name}")
            if (len(ledger), len(refusals)) == (before, dropped):
                raise RuntimeError(f"{job.name}: {len(requests)} requests and neither an answer nor a reason")
        with atomic_write(target.with_suffix(".failed")) as fresh:
            rows = [(refusal.prompt_id, refusal.reason, refusal.pending) for refusal in refusals.values()]
            pl.DataFrame(rows, schema=REFUSALS, orient="row").write_parquet(fresh)
        ledger.write_table(target)
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
    job: AnswerJob, grader: Grader, prompts: Prompts, ledger: Ledger, refusals: Mapping[str, Refusal]
) -> Rounds:
    """Rounds of both conditions' prompts until every row is settled, complete, or refused.

    The fully sampled rows go first: their shares of right and wrong answers are what is expected of the others.
    """
    rule = grader.rule
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


if __name__ == "__main__":
    run_program(GenerateConfig, main)
