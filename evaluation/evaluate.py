"""One checkpoint on one benchmark, without Dagster: answers that resume per sample, their marks and a report, in a
folder of its own.

    ledger/             every answer as it was given, found by content: what was paid for is never asked again
    items.parquet       the items that are asked (and those that cannot be, with the reason)
    answers.parquet     training.data.prompts.ANSWERS
    refused.parquet     prompts that were not answered, with the reason
    judge.jsonl         the judge's replies
    graded.parquet, report.json
    evaluation.json     what the folder holds

`answer` needs the model, and starts a program that loads it; `score` reads the folder alone, and imports no torch.
"""

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from evaluation.benchmarks.benchmark import Benchmark, StoredAnswers, sampled
from evaluation.benchmarks.cost import latency
from evaluation.generate import FAILED
from evaluation.generation.asked import Asked, run_of
from evaluation.generation.ledger import Ledger, keyed
from training.grading.judge import Judge
from training.runtime import supervisor
from training.runtime.interrupts import defer_interrupts
from training.runtime.programs import CONFIG_ERROR
from training.runtime.project import python_variables
from training.storage.files import whole
from training.storage.hashing import digest
from training.storage.parquet import read_parquet

ITEMS, ANSWERS, REFUSED, GRADED = "items.parquet", "answers.parquet", "refused.parquet", "graded.parquet"
TIMED = "timed.parquet"
REPORT, ABOUT, REPLIES = "report.json", "evaluation.json", "judge.jsonl"
LEDGER, WORK, LOCK = "ledger", "work", ".lock"

PROGRAM = "evaluation.generate"
DEADLINES = supervisor.Deadlines(sigint_grace=15.0, sigterm_grace=15.0)
REASONS_TOLD = 5


class AnsweringFailedError(RuntimeError):
    """The answering program ended before every prompt had its answer; what was answered is in the ledger."""


def answer(
    benchmark: Benchmark,
    source: Path,
    asked: Asked,
    out: Path,
    limit: int | None,
    device: str,
    retry_refused: bool = False,
) -> None:
    """Asks whatever is not in the ledger yet; `limit`: so many of the items, the same on every machine.

    With `retry_refused`, prompts that were refused are asked again, too.

    Raises ValueError for what cannot be asked as it is, AnsweringFailedError where the program fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        if retry_refused:  # what was answered is in the ledger
            (out / ABOUT).unlink(missing_ok=True)
        _answer(benchmark, source, asked, out, limit, device)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Holds the folder for this process; the lock goes with the process, however it ends."""
    with (out / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another evaluation is at work in {out}: let it end, or name another folder") from None
        yield


def _answer(benchmark: Benchmark, source: Path, asked: Asked, out: Path, limit: int | None, device: str) -> None:
    everything = benchmark.items(source)
    table = sampled(everything, limit)
    prompts = keyed(benchmark.prompts(table))
    run = run_of(asked, prompts)
    about = {
        "benchmark": benchmark.name,
        "settings": benchmark.settings.model_dump(mode="json"),
        "checkpoint": {"name": "/".join(asked.checkpoint.absolute().parts[1:][-4:]), "hash": run["model"]},
        "run": run,
        "batch_size": asked.asking.batch_size,
        "timed": asked.timed,
        "prompts": digest(sorted(prompts["key"])),
        "limit": None if table.height == everything.height else {"asked": table.height, "of": everything.height},
    }
    with whole(out / ITEMS) as fresh:
        table.write_parquet(fresh)
    if (told := held(out)) is None or told | {"settings": about["settings"]} != about:
        (out / ABOUT).unlink(missing_ok=True)
        _write_json(out / LEDGER / f"{digest(run)}.json", run)
        _program(asked, prompts, out, digest(run), device)
    _write_json(out / ABOUT, about)


def score(benchmark: Benchmark, out: Path, judge: Judge | None) -> dict[str, Any]:
    """Marks the answers in the folder and writes `graded.parquet` and `report.json`; returns the report.

    Raises ValueError where there are none, or another benchmark's.
    """
    about = held(out)
    if about is None:
        raise ValueError(f"{out} holds no answers: give --checkpoint and --source, to have some")
    if about["benchmark"] != benchmark.name:
        raise ValueError(f"{out} holds answers to {about['benchmark']}, not to {benchmark.name}")
    table, answers = read_parquet(out / ITEMS), read_parquet(out / ANSWERS)
    run = about["run"]
    told = StoredAnswers(answers, run["control"], judge)
    rows = benchmark.graded(table, told)
    report = benchmark.report(table, told, rows)
    report |= _refusals(report, read_parquet(out / REFUSED))
    if (out / TIMED).exists():
        accuracy = report["average"].get("accuracy") if "average" in report else None
        report["cost"] |= {"latency": latency(read_parquet(out / TIMED), accuracy)}
    report |= {name: about[name] for name in ("checkpoint", "run", "batch_size", "limit")}
    with whole(out / GRADED) as fresh:
        rows.write_parquet(fresh)
    _write_json(out / REPORT, report)
    return report


def held(out: Path) -> dict[str, Any] | None:
    """What a folder's answers are of: benchmark, its settings, checkpoint, run; None where it holds none."""
    path = out / ABOUT
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _program(asked: Asked, prompts: pl.DataFrame, out: Path, ledger: str, device: str) -> None:
    """Has the prompts answered, and the tables put into their places; what the ledger holds needs no program."""
    work, path = out / WORK, out / LEDGER / f"{ledger}.jsonl"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    known = Ledger(path, dict(prompts.select("key", "prompt_id").iter_rows()))
    if len(known) == prompts.height:
        with whole(out / ANSWERS) as answers, whole(out / REFUSED) as refused:
            known.table(1).write_parquet(answers)
            pl.DataFrame(schema=FAILED).write_parquet(refused)
    else:
        _ask(work / "answers", [_job("answers", asked, prompts, work, path)], device)
        for name, made in ((ANSWERS, "answers.parquet"), (REFUSED, "answers.failed")):
            (work / "answers" / made).replace(out / name)
    (out / TIMED).unlink(missing_ok=True)
    if asked.timed:
        first, timed = prompts.head(1), prompts.head(asked.timed)
        jobs = [_job(name, asked, rows, work, None, 1) for name, rows in (("1_warm_up", first), ("2_timed", timed))]
        _ask(work / "timed", jobs, device, vision_cache_gib=0.0)
        (work / "timed" / "2_timed.parquet").replace(out / TIMED)
    shutil.rmtree(work)


def _job(
    name: str, asked: Asked, prompts: pl.DataFrame, work: Path, ledger: Path | None, batch_size: int | None = None
) -> dict[str, Any]:
    """A job of the answering program, its prompts written."""
    path = work / f"{name}.prompts.parquet"
    prompts.write_parquet(path)
    asking = asked.asking.model_dump(mode="json") | ({"batch_size": batch_size} if batch_size else {})
    latents = {"reference_latents": str(asked.reference_latents.absolute())} if asked.reference_latents else {}
    return {
        "name": name,
        "checkpoint": str(asked.checkpoint.absolute()),
        "prompts": str(path.absolute()),
        "ledger": str(ledger.absolute()) if ledger else None,
        "seed": asked.seed,
        "intervention": asked.intervention,
        "control": asked.control,
        **asking,
        **latents,
    }


def _ask(folder: Path, jobs: list[dict[str, Any]], device: str, **caches: float) -> None:
    """Runs the answering program to its end; it ends with this process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.json"
    _write_json(config, {"out": str(folder.absolute()), "device": device, "jobs": jobs, **caches})
    own = [sys.executable, "-m", PROGRAM, "--config", str(config.absolute())]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **python_variables()}
    process = supervisor.start(own, DEADLINES, env=environment, stdout=2)  # its log is not our result
    try:
        status = process.wait()
    finally:
        with defer_interrupts():
            supervisor.end(process, DEADLINES)
    if status == CONFIG_ERROR:
        raise ValueError(f"{PROGRAM} refuses what it was asked ({config}); what it says is above")
    if status != 0:
        raise AnsweringFailedError(f"{PROGRAM} ended with status {status}; the same command goes on from here")


def _refusals(report: Mapping[str, Any], refused: pl.DataFrame) -> dict[str, Any]:
    """How many prompts were refused, and the most frequent reasons; they are why there is nothing, if there is not."""
    reasons = dict(refused["reason"].value_counts(sort=True).head(REASONS_TOLD).iter_rows())
    told: dict[str, Any] = {"refused": {"count": refused.height, "reasons": reasons}}
    if not report["answered"] and reasons:
        told["reason"] = f"every prompt was refused, {next(iter(reasons.values()))} because: {next(iter(reasons))}"
    return told


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as fresh:
        fresh.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
