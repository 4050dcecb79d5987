"""`python -m evaluation.generate --config answer.json`: tables of prompts in, tables of answers out.

One start answers any number of jobs, since loading the libraries takes longer than many a job, with a model on this
machine (`generation.local`) or one behind an OpenAI-compatible endpoint (`generation.endpoint`).  Every answer goes to
the job's ledger as it arrives; a killed run asks only for what the ledger lacks, and an answer's random stream depends
on the job's seed, the prompt and the answer's number alone, so it ends with the same answers.  Where answers borrow
latents from each other, it asks for all again, in the same batches, and takes what the ledger lacks.

A job with a gain rule asks in rounds, and for no answer that cannot change whether its row is kept
(`generation.curtailment`); between rounds it grades: the rule first, then the judge.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, model_validator

from evaluation.generation.controls import ControlName
from evaluation.generation.curtailment import CONDITIONS, EVEN, Expected, GainRule, Tally, wanted
from evaluation.generation.ledger import Ledger
from evaluation.generation.prompt_table import Prompts
from evaluation.generation.requests import BORROWED, Asking, Backend, Held, InterventionName, Refused, Request
from training.chat.endpoint import EndpointSettings
from training.grading.grade import Answered, grade
from training.grading.judge import Judge, JudgeSettings
from training.grading.parsers import ParserName
from training.runtime.programs import ProgramConfig, Reporter, run_program
from training.storage.files import whole
from training.storage.parquet import read_parquet

FAILED = {"prompt_id": pl.String, "reason": pl.String, "pending": pl.Boolean}
"""The prompts without an answer; those that are pending may have one the next time that they are asked."""


class Gain(BaseModel):
    """That a job scores visual gain: prompts are `{row_id}/{condition}`, and curtailment needs verdicts.

    `references`: parquet of row_id, question and answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: GainRule
    references: Path
    parser: ParserName


class AnswerJob(Asking):
    """One table of prompts for one model; the answers go to `{answers}/{name}.parquet`, `samples` to each prompt.

    `checkpoint`: a model's folder; None where the endpoint has the model.  `ledger`: where answers are kept for other
    runs, too, of this model, sampling, intervention and control; None: beside the table, for as long as the job is not
    done.  `control`: what the model is shown instead (generation.controls).  `reference_latents`: the file with the
    tensor `mean` for the intervention of that name.  `keep_latents`: the table has the column `latents`, the vectors as
    they were fed.
    """

    name: str
    checkpoint: Path | None
    prompts: Path
    samples: int = 1
    intervention: InterventionName = "none"
    control: ControlName = "none"
    reference_latents: Path | None = None
    keep_latents: bool = False
    seed: int = 0
    ledger: Path | None = None
    gain: Gain | None = None

    @model_validator(mode="after")
    def _one_number_of_samples(self) -> "AnswerJob":
        if self.gain and self.gain.rule.samples != self.samples:
            raise ValueError(f"job {self.name!r} has {self.samples} samples, its rule {self.gain.rule.samples}")
        return self

    @model_validator(mode="after")
    def _what_belongs_together(self) -> "AnswerJob":
        if (self.intervention == "mean") != (self.reference_latents is not None):
            raise ValueError(f"job {self.name!r}: intervention 'mean' and reference_latents need each other")
        if self.gain and self.control != "none":
            raise ValueError(f"job {self.name!r}: visual gain is scored on prompts as they are, not under a control")
        return self


class AnswerConfig(ProgramConfig):
    """What to answer, and who answers."""

    jobs: list[AnswerJob]
    answers: Path | None = None  # where the tables go, shared by programs side by side; None: `out`
    endpoint: EndpointSettings | None = None
    judge: JudgeSettings | None = None  # for the jobs with a gain rule
    vision_cache_gib: float = 0.5
    frames_cache_gib: float = 0.5

    @model_validator(mode="after")
    def _every_job_has_a_model(self) -> "AnswerConfig":
        names = [job.name for job in self.jobs]
        if len(set(names)) < len(names):
            raise ValueError(f"jobs must have different names; found {names}")
        for job in self.jobs:
            if (job.checkpoint is None) != (self.endpoint is not None):
                raise ValueError(f"job {job.name!r} needs a checkpoint, or all jobs an endpoint, and not both")
        return self


def main(config: AnswerConfig, reporter: Reporter) -> dict[str, Any]:
    """Answers every job that has no answers yet; per job: answers, unreadable prompts, and seconds spent on answers.

    Raises EndpointRefusesError where the endpoint or the judge will never answer as configured, and EndpointDownError
    where it is gone; the ledger keeps what was answered.
    """
    result: dict[str, Any] = {}
    backend = cache(lambda: _backend(config))  # what the ledgers hold needs no model
    for job in sorted(config.jobs, key=lambda j: (str(j.checkpoint), j.name)):
        target = (config.answers or config.out) / f"{job.name}.parquet"
        if not target.exists():
            _answer(job, backend, config.judge, target, reporter)
        table = read_parquet(target)
        seconds = float(table.select(pl.sum("prefill_seconds") + pl.sum("decode_seconds")).item())
        refused = read_parquet(target.with_suffix(".failed")).height
        result[job.name] = {"answers": table.height, "seconds": seconds, "unreadable": refused}
    return result


def _backend(config: AnswerConfig) -> Backend:
    """Whoever answers, and judges between rounds, asked whether they will before any work."""
    if config.judge and any(job.gain for job in config.jobs):
        Judge(config.judge).preflight()
    if config.endpoint is not None:
        from evaluation.generation.endpoint import EndpointBackend

        served = EndpointBackend(config.endpoint, int(config.frames_cache_gib * 2**30))
        served.preflight()
        return served
    from evaluation.generation.local import LocalBackend  # imports torch

    return LocalBackend(config.device, config.vision_cache_gib, config.frames_cache_gib)


def _answer(
    job: AnswerJob, backend: Callable[[], Backend], judge: JudgeSettings | None, target: Path, reporter: Reporter
) -> None:
    prompts = Prompts(job.prompts, job.control)
    own = target.with_suffix(".ledger.jsonl")
    refused: dict[str, Refused] = {}
    with Ledger(job.ledger or own, prompts.by_key, job.keep_latents, served=job.checkpoint is None) as ledger:
        if job.gain:
            rounds = _gain_rounds(job, job.gain, prompts, ledger, refused, judge)
        else:
            rounds = _once(job, prompts, ledger, refused)
        for requests, done, total in rounds:
            before, dropped = len(ledger), len(refused)
            answered = ledger.any() if job.checkpoint is None else None
            held = Held(len(ledger), prompts.request(answered, (0,), job.seed) if answered else None)
            told_by = backend().answer(
                job.checkpoint, job, job.intervention, requests, job.reference_latents, job.keep_latents, held
            )
            for told in told_by:
                if isinstance(told, Refused):
                    refused[told.prompt_id] = told
                elif job.intervention not in BORROWED or ledger.missing(told["prompt_id"], [told["sample"]]):
                    ledger.add(told)
                reporter.progress(done + len(ledger) - before, total, f"answers {job.name}")
            if (len(ledger), len(refused)) == (before, dropped):
                raise RuntimeError(f"{job.name}: {len(requests)} requests and neither an answer nor a reason")
        table = ledger.table(job.samples)
    with whole(target.with_suffix(".failed")) as fresh:
        rows = [(one.prompt_id, one.reason, one.pending) for one in refused.values()]
        pl.DataFrame(rows, schema=FAILED, orient="row").write_parquet(fresh)
    with whole(target) as fresh:
        table.write_parquet(fresh)
    own.unlink(missing_ok=True)


Rounds = Iterator[tuple[list[Request], int, int]]
"""What to ask for next, and how far it is: answers that are known or will not be needed, of all that could be asked."""


def _once(job: AnswerJob, prompts: Prompts, ledger: Ledger, refused: dict[str, Refused]) -> Rounds:
    """All answers of all prompts; `refused` gets those that the control can do nothing to."""
    total = len(prompts.content) * job.samples
    missing = {prompt_id: ledger.missing(prompt_id, range(job.samples)) for prompt_id in prompts.content}
    if job.intervention in BORROWED and any(missing.values()):
        missing = dict.fromkeys(missing, tuple(range(job.samples)))
    requests = []
    for prompt_id, samples in missing.items():
        if samples:
            try:
                requests.append(prompts.request(prompt_id, samples, job.seed))
            except (ValueError, OSError) as error:
                refused[prompt_id] = Refused(prompt_id, str(error))
    if requests:
        yield requests, len(ledger), total


def _gain_rounds(
    job: AnswerJob,
    gain: Gain,
    prompts: Prompts,
    ledger: Ledger,
    refused: Mapping[str, Refused],
    judge_settings: JudgeSettings | None,
) -> Rounds:
    """Rounds of both conditions' prompts until every row is settled, complete, or cannot be asked.

    The audited rows go first: what they show is what is expected of the others.
    """
    rule, grader = gain.rule, _Grader(gain, judge_settings, ledger)
    rows = sorted({prompt_id.partition("/")[0] for prompt_id in prompts.content})
    of_a_row = len(CONDITIONS) * rule.samples
    audited = [row for row in rows if rule.audited(row)]
    others = [row for row in rows if not rule.audited(row)]

    def rounds(open_rows: list[str], waiting: int, expected: Expected) -> Rounds:
        while open_rows:
            requests, still_open, left = [], [], waiting * of_a_row
            for row, (plain, hint) in grader.counted(open_rows).items():
                more = wanted(rule, plain, hint, rule.audited(row), expected)
                if not any(more.values()) or any(f"{row}/{condition}" in refused for condition in CONDITIONS):
                    continue
                still_open.append(row)
                left += of_a_row - plain.answers - hint.answers
                for condition, count in more.items():
                    samples = ledger.missing(f"{row}/{condition}", range(rule.samples))[:count]
                    if samples:
                        requests.append(prompts.request(f"{row}/{condition}", samples, job.seed))
            open_rows = still_open
            if requests:
                yield requests, len(rows) * of_a_row - left, len(rows) * of_a_row

    yield from rounds(audited, len(others), EVEN)
    yield from rounds(others, 0, Expected.of(list(grader.counted(audited).values())))


class _Grader:
    """Verdicts on the answers in a ledger, each graded once, counted by prompt."""

    def __init__(self, gain: Gain, judge: JudgeSettings | None, ledger: Ledger) -> None:
        table = read_parquet(gain.references).select("row_id", "question", "answer")
        self._references = {row_id: (question, answer) for row_id, question, answer in table.iter_rows()}
        self._parser, self._samples = gain.parser, gain.rule.samples
        self._judge = Judge(judge, on_outage="raise") if judge else None
        self._ledger = ledger
        self._graded: set[tuple[str, int]] = set()
        self._tallies: defaultdict[str, Tally] = defaultdict(Tally)

    def counted(self, rows: Sequence[str]) -> dict[str, tuple[Tally, Tally]]:
        """The tallies (plain, hint) of the rows; answers that are new in the ledger are graded first, all at once."""
        told = [
            (row, answer)
            for row in rows
            for condition in CONDITIONS
            for answer in self._ledger.told(f"{row}/{condition}", self._samples)
            if (answer["prompt_id"], answer["sample"]) not in self._graded
        ]
        verdicts = grade([Answered(*self._references[row], a["text"]) for row, a in told], self._parser, self._judge)
        for (_, answer), graded in zip(told, verdicts, strict=True):
            self._graded.add((answer["prompt_id"], answer["sample"]))
            tally = self._tallies[answer["prompt_id"]]
            tally.answers += 1
            tally.right += graded.verdict == "correct"
            tally.wrong += graded.verdict == "incorrect"
        return {row: (self._tallies[f"{row}/plain"], self._tallies[f"{row}/hint"]) for row in rows}


if __name__ == "__main__":
    run_program(AnswerConfig, main)
