"""One checkpoint on one benchmark, without Dagster: answers that resume per sample, their marks and a report, in a
folder of its own.

    ledger/             every answer, identified by content: none is generated twice
    items.parquet       the items (unusable ones with the reason)
    answers.parquet     training.data.prompts.ANSWERS
    refused.parquet     prompts that were not answered, with the reason
    judge.jsonl         the judge's replies
    graded.parquet, report.json
    evaluation.json     what the folder holds

`answer` needs the model, and starts a program that loads it; `score` reads the folder alone, and imports no torch.
"""

import fcntl
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from evaluation.benchmarks.benchmark import Benchmark, StoredAnswers, sample_items
from evaluation.benchmarks.cost import latency
from evaluation.generate import REFUSALS
from evaluation.generation.jobs import AnswerJob, GenerateConfig
from evaluation.generation.ledger import Ledger, engines_of, keyed
from evaluation.generation.program import generate
from training.grading.judge import Judge
from training.storage.files import atomic_write, read_json, write_json
from training.storage.hashing import digest
from training.storage.parquet import read_parquet

ITEMS, ANSWERS, REFUSED, GRADED = "items.parquet", "answers.parquet", "refused.parquet", "graded.parquet"
TIMED = "timed.parquet"
REPORT, ABOUT, REPLIES = "report.json", "evaluation.json", "judge.jsonl"
LEDGER, WORK, LOCK = "ledger", "work", ".lock"

MAX_REASONS = 5


def answer(
    benchmark: Benchmark,
    source: Path,
    make_job: partial[AnswerJob],
    out: Path,
    limit: int | None,
    device: str,
    retry_refused: bool = False,
    timed: int = 0,
) -> None:
    """Generates the answers that are not in the ledger yet; `limit`: so many of the items, the same on every machine.

    `make_job`: an AnswerJob but for its name, prompts and ledger.  With `retry_refused`, prompts that were refused are
    sent again, too.  `timed`: so many of the prompts are answered once more, one at a time, to measure latency.

    Raises ValueError for a job or items that cannot be answered, GenerationFailedError where the program fails.
    """
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        if retry_refused:  # what was answered is in the ledger
            (out / ABOUT).unlink(missing_ok=True)
        job = make_job(name="answers", prompts=out / WORK / "prompts.parquet")
        assert job.checkpoint is not None
        everything = benchmark.items(source)
        table = sample_items(everything, limit)
        prompts = keyed(benchmark.prompts(table))
        run = job.ledger_contents(prompts)
        about = {
            "benchmark": benchmark.name,
            "settings": benchmark.settings.model_dump(mode="json"),
            "checkpoint": {"name": "/".join(job.checkpoint.absolute().parts[1:][-4:]), "hash": run["model"]},
            "run": run,
            "batch_size": job.generation.batch_size,
            "timed": timed,
            "prompts": digest(sorted(prompts["key"])),
            "limit": None if table.height == everything.height else {"n": table.height, "of": everything.height},
        }
        with atomic_write(out / ITEMS) as fresh:
            table.write_parquet(fresh)
        stored = read_about(out)
        if stored is None or stored | {"settings": about["settings"]} != about or _any_pending(out / REFUSED):
            (out / ABOUT).unlink(missing_ok=True)
            (out / LEDGER).mkdir(exist_ok=True)
            write_json(out / LEDGER / f"{digest(run)}.json", run)
            ledger = out / LEDGER / f"{digest(run)}.jsonl"
            _generate(job.model_copy(update={"ledger": ledger}), ledger, prompts, out, device, timed)
        write_json(out / ABOUT, about)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Holds the folder for this process; the lock goes with the process, however it ends."""
    with (out / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another evaluation is at work in {out}: let it end, or name another folder") from None
        yield


def score(benchmark: Benchmark, out: Path, judge: Judge | None) -> dict[str, Any]:
    """Grades the answers in the folder and writes `graded.parquet` and `report.json`; returns the report.

    Raises ValueError where there are none, or another benchmark's.
    """
    about = stored_run(out, benchmark.name)
    table, answers = read_parquet(out / ITEMS), read_parquet(out / ANSWERS)
    run = about["run"]
    stored = StoredAnswers(answers, run["control"], judge)
    graded = benchmark.grade(table, stored)
    report = benchmark.report(table, stored, graded)
    report |= _refusals(report, read_parquet(out / REFUSED))
    if (out / TIMED).exists():
        accuracy = report["average"].get("accuracy") if "average" in report else None
        report["cost"] |= {"latency": latency(read_parquet(out / TIMED), accuracy)}
    report |= {name: about[name] for name in ("checkpoint", "run", "batch_size", "limit")}
    report["engines"] = engines_of(answers)
    with atomic_write(out / GRADED) as fresh:
        graded.write_parquet(fresh)
    write_json(out / REPORT, report)
    return report


def stored_run(out: Path, benchmark: str | None) -> dict[str, Any]:
    """Benchmark, settings, checkpoint and run of the answers in a folder.

    Raises ValueError where there are none, or another benchmark's than the named one.
    """
    about = read_about(out)
    if about is None:
        raise ValueError(f"{out} holds no answers: give --checkpoint, --benchmark and --data-dir to generate some")
    if benchmark not in (None, about["benchmark"]):
        raise ValueError(f"{out} holds answers to {about['benchmark']}, not to {benchmark}")
    return about


def read_about(out: Path) -> dict[str, Any] | None:
    """The content of the folder's evaluation.json; None where it has none."""
    path = out / ABOUT
    return read_json(path) if path.is_file() else None


def _any_pending(refused: Path) -> bool:
    """Whether a server is to blame for a prompt without an answer: it is sent again at each start."""
    return refused.is_file() and bool(read_parquet(refused)["pending"].any())


def _generate(job: AnswerJob, ledger: Path, prompts: pl.DataFrame, out: Path, device: str, timed: int) -> None:
    """Generates the answers, and puts the tables into their places; what the ledger holds needs no program."""
    work = out / WORK
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    held = Ledger(ledger, dict(prompts.select("key", "prompt_id").iter_rows()), samples=1)
    if len(held) == prompts.height:
        held.write_table(out / ANSWERS)
        with atomic_write(out / REFUSED) as refused:
            pl.DataFrame(schema=REFUSALS).write_parquet(refused)
    else:
        prompts.write_parquet(job.prompts)
        generate(GenerateConfig(out=work / "answers", device=device, jobs=[job]))
        for name, made in ((ANSWERS, "answers.parquet"), (REFUSED, "answers.failed")):
            (work / "answers" / made).replace(out / name)
    (out / TIMED).unlink(missing_ok=True)
    if timed:
        one_at_a_time = {"generation": job.generation.model_copy(update={"batch_size": 1}), "ledger": None}
        jobs = []
        for name, count in (("1_warm_up", 1), ("2_timed", timed)):
            path = work / f"{name}.prompts.parquet"
            prompts.head(count).write_parquet(path)
            jobs.append(job.model_copy(update={"name": name, "prompts": path, **one_at_a_time}))
        generate(GenerateConfig(out=work / "timed", device=device, jobs=jobs, vision_cache_gib=0.0))
        (work / "timed" / "2_timed.parquet").replace(out / TIMED)
    shutil.rmtree(work)


def _refusals(report: Mapping[str, Any], refused: pl.DataFrame) -> dict[str, Any]:
    """The number of refused prompts, and the most frequent reasons; the cause, where there are no answers at all."""
    reasons = dict(refused["reason"].value_counts(sort=True).head(MAX_REASONS).iter_rows())
    fields: dict[str, Any] = {"refused": {"count": refused.height, "reasons": reasons}}
    if not report["answered"] and reasons:
        fields["reason"] = f"every prompt was refused, {next(iter(reasons.values()))} because: {next(iter(reasons))}"
    return fields
