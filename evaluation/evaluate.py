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

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, model_validator

from evaluation.answer import FAILED
from evaluation.benchmark import Benchmark, Told, sampled
from evaluation.controls import ControlName
from evaluation.cost import latency
from evaluation.ledger import Ledger, keyed, model_hash
from evaluation.requests import Asking, InterventionName
from training.artifacts import digest, file_digest
from training.files import whole
from training.grading.judge import Judge
from training.model.teaching import Teaching
from training.programs import CONFIG_ERROR, TETHERED
from training.recipes import SYSTEM

ITEMS, ANSWERS, REFUSED, GRADED = "items.parquet", "answers.parquet", "refused.parquet", "graded.parquet"
TIMED = "timed.parquet"
REPORT, ABOUT, REPLIES = "report.json", "evaluation.json", "judge.jsonl"
LEDGER, WORK = "ledger", "work"

PROGRAM = "evaluation.answer"
PROJECT = Path(__file__).resolve().parents[1]
RELEASE_TOKENS = (196, 1568)
"""Least and most merged vision tokens of an image in the release's evaluation (reference/evaluation.md 1.4)."""
WITH_DONORS = ("other_item", "same_answer", "other_answer")
REASONS_TOLD = 5


class AnsweringFailedError(RuntimeError):
    """The answering program ended before every prompt had its answer; what was answered is in the ledger."""


class Asked(BaseModel):
    """Who is asked, and how: with the prompts, all that answers depend on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: Path
    asking: Asking
    seed: int = 0
    intervention: InterventionName = "none"
    control: ControlName = "none"
    reference_latents: Path | None = None
    """What the intervention "mean" feeds (evaluation.requests.Backend)."""
    timed: int = 0
    """So many of the prompts are answered once more, one at a time, to measure how long an answer takes."""

    @model_validator(mode="after")
    def _mean_has_its_latents(self) -> "Asked":
        if (self.intervention == "mean") != (self.reference_latents is not None):
            raise ValueError("the intervention 'mean' and a file of reference latents need each other")
        return self


def asking_of(checkpoint: Path, **given: Any) -> Asking:
    """How a checkpoint is asked where nothing else is `given` (fields of Asking, None for what is not).

    The system prompt is the one that it was taught, the release's for a checkpoint that does not say; an empty one is
    no system turn.  Images have the release's bounds, unless it was never taught as large ones: then its own.  Raises
    ValueError where the folder holds no model.
    """
    try:
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{checkpoint} is no model's folder: {error}") from error
    own = Teaching.model_validate(config["future_l1"]) if "future_l1" in config else None
    small = own is not None and own.observed_tokens[1] < RELEASE_TOKENS[0]
    known: dict[str, Any] = {
        "system": own.system if own else SYSTEM,
        "image_tokens": own.observed_tokens if own and small else RELEASE_TOKENS,
    }
    known |= {name: value for name, value in given.items() if value is not None}
    return Asking(**known | {"system": known["system"] or None})


def answer(benchmark: Benchmark, source: Path, asked: Asked, out: Path, limit: int | None, device: str) -> None:
    """Asks whatever is not in the ledger yet; `limit`: so many of the items, the same on every machine.

    Raises ValueError for what cannot be asked as it is, AnsweringFailedError where the program fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    everything = benchmark.items(source)
    table = sampled(everything, limit)
    prompts = keyed(benchmark.prompts(table))
    run = _run(asked, prompts)
    about = {
        "benchmark": benchmark.name,
        "settings": benchmark.settings.model_dump(mode="json"),
        "checkpoint": {"name": _name(asked.checkpoint), "hash": run["model"]},
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
    table, answers = pl.read_parquet(out / ITEMS), pl.read_parquet(out / ANSWERS)
    run = about["run"]
    told = Told(answers, run["control"], judge)
    rows = benchmark.graded(table, told)
    report = benchmark.report(table, told, rows)
    report |= _refusals(report, pl.read_parquet(out / REFUSED))
    if (out / TIMED).exists():
        accuracy = report["average"].get("accuracy") if "average" in report else None
        report["cost"] |= {"latency": latency(pl.read_parquet(out / TIMED), accuracy)}
    report |= {name: about[name] for name in ("checkpoint", "run", "batch_size", "limit")}
    with whole(out / GRADED) as fresh:
        rows.write_parquet(fresh)
    _write_json(out / REPORT, report)
    return report


def held(out: Path) -> dict[str, Any] | None:
    """What a folder's answers are of: benchmark, its settings, checkpoint, run; None where it holds none."""
    path = out / ABOUT
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _run(asked: Asked, prompts: pl.DataFrame) -> dict[str, Any]:
    """What a ledger is of: model, sampling, seed, intervention and control.

    Where other prompts lend their latents, they are part of it.
    """
    donors = {}
    if asked.intervention in WITH_DONORS:
        lenders = prompts.select("key", "reference").sort("key").rows()
        donors = {"donors": digest(lenders), "batch_size": asked.asking.batch_size}
    if asked.reference_latents is not None:
        donors = {"reference_latents": file_digest(asked.reference_latents)}
    return {
        "model": model_hash(asked.checkpoint),
        "sampling": asked.asking.model_dump(mode="json", exclude={"batch_size"}),
        **asked.model_dump(mode="json", include={"seed", "intervention", "control"}),
        **donors,
    }


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
    own = [sys.executable, "-m", PROGRAM, "--config", str(config)]
    environment = {
        **os.environ,
        TETHERED: "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [sys.executable, "-m", "training.tether", str(os.getpid()), *own]
    status = subprocess.run(command, env=environment, stdout=2, check=False).returncode  # its log is not our result
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


def _name(checkpoint: Path) -> str:
    """A checkpoint's folder as people know it: with the one that it lies in, whose name says more than "model"."""
    return "/".join(checkpoint.absolute().parts[-4:])


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as fresh:
        fresh.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
