"""Asks models through the answering program: many prompt tables, one start, one artifact for each set of tables.

Importing torch and loading a model costs more than many a table takes, so whatever a run still needs goes into one
program, or into as many as the machine runs side by side. What was published before is not asked again; what a killed
run had finished is not either.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from assets.framework.store import AssetStore, Work
from assets.launching.launcher import Launcher, Start
from assets.launching.program import Context
from evaluation.generation.controls import ControlName
from evaluation.generation.curtailment import GainRule
from evaluation.generation.requests import Asking, InterventionName
from training.chat.endpoint import EndpointSettings
from training.grading.judge import JudgeSettings
from training.grading.parsers import ParserName
from training.storage.artifacts import Artifact
from training.storage.hashing import digest
from training.storage.parquet import read_parquet

PROGRAM = "evaluation.generate"


class AnswerSettings(Asking):
    """How a model is asked, and for how many answers: fields of an answering job."""

    samples: int = 1
    system: str | None = None


@dataclass(frozen=True)
class Scored:
    """That a job's prompts are both conditions of rows, whose visual gain decides what is asked.

    `references` makes the table of row_id, question and answer.
    """

    rule: GainRule
    references: Callable[[], pl.DataFrame]
    parser: ParserName


@dataclass(frozen=True)
class Job:
    """One prompt table for one model; its answers become `{name}.parquet` of the artifact, and the prompts that could
    not be asked `{name}.failed`.

    `checkpoint`: None where the endpoint has the model; `ledger`: where the answers stay for other versions of the
    artifact.  `intervention` to `reference_latents` are the answering program's (evaluation.generate.AnswerJob).
    """

    name: str
    checkpoint: Path | None
    prompts: Callable[[], pl.DataFrame]
    settings: AnswerSettings
    seed: int
    intervention: InterventionName = "none"
    control: ControlName = "none"
    keep_latents: bool = False
    reference_latents: Path | None = None
    ledger: Path | None = None
    scored: Scored | None = None


@dataclass(frozen=True)
class Server:
    """Who is asked over the network: the model, if it is served, and the judge between rounds of scored jobs."""

    endpoint: EndpointSettings | None = None
    judge: JudgeSettings | None = None


@dataclass(frozen=True)
class Asked:
    """An artifact of answers that is wanted, and the jobs that it is made of."""

    work: Work
    jobs: Sequence[Job]


def again(of: Callable[[Mapping[str, str]], Work], retry_refused: bool) -> Work:
    """The work that holds the answers now, or the one to do next where prompts were left without an answer.

    `of` makes the work from further inputs.  What was pending is asked again at each start, what was refused where that
    is wanted; each time makes a version of its own, which names the one before.
    """
    work = of({})
    while (made := work.published()) is not None:
        following, left = of({"asked_again": made.version}), made.provenance["counts"]
        wanted = left["unreadable"] if retry_refused else left.get("pending", 0)
        if not wanted and following.published() is None:
            break
        work = following
    return work


def answer_all(
    context: Context,
    store: AssetStore,
    launcher: Launcher,
    device: str,
    wanted: Mapping[str, Asked],
    server: Server | None = None,
) -> dict[str, Artifact]:
    """The artifacts that are wanted, by their names; what is missing is made in one go."""
    found = {name: asked.work.found() for name, asked in wanted.items()}
    missing = {name: asked for name, asked in wanted.items() if found[name] is None}
    if missing:
        folder = store.scratch / "answers" / digest({name: asked.work.version for name, asked in wanted.items()})
        _run(context, launcher, device, folder, missing, server or Server())
        found |= {name: _publish(asked, folder, name) for name, asked in missing.items()}
        shutil.rmtree(folder)
    return {name: artifact for name, artifact in found.items() if artifact is not None}


def _run(
    context: Context,
    launcher: Launcher,
    device: str,
    folder: Path,
    missing: Mapping[str, Asked],
    server: Server,
) -> None:
    for name in ("prompts", "answers", "references"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    jobs = [_config(folder, _file(name, job), job) for name, asked in missing.items() for job in asked.jobs]
    jobs.sort(key=lambda job: (job["checkpoint"] or "", job["name"]))  # a program loads few checkpoints
    # One client asks a server, as it limits the requests in flight.
    max_parallel = 1 if server.endpoint else launcher.max_parallel(PROGRAM)
    size = -(-len(jobs) // max_parallel)
    shares = [jobs[i : i + size] for i in range(0, len(jobs), size)]
    common = {
        "device": "cpu" if server.endpoint else device,  # a served model leaves this machine's devices alone
        "answers": str(folder / "answers"),
        "endpoint": server.endpoint.model_dump(mode="json") if server.endpoint else None,
        "judge": server.judge.model_dump(mode="json") if server.judge else None,
    }
    starts = [Start(PROGRAM, folder / "programs" / str(i), {**common, "jobs": share}) for i, share in enumerate(shares)]
    started = time.monotonic()
    results = launcher.run_parallel(context, starts)
    spent = time.monotonic() - started
    own = {name: told["seconds"] for result in results for name, told in result.items()}
    total = sum(own.values()) or 1.0
    (folder / "seconds").mkdir(exist_ok=True)
    for name, seconds in own.items():
        (folder / "seconds" / name).write_text(str(spent * seconds / total))


def _config(folder: Path, name: str, job: Job) -> dict[str, Any]:
    """A job as the program reads it, its tables written."""
    prompts = folder / "prompts" / f"{name}.parquet"
    job.prompts().write_parquet(prompts)
    gain = None
    if job.scored:
        references = folder / "references" / f"{name}.parquet"
        job.scored.references().write_parquet(references)
        gain = {"rule": job.scored.rule.model_dump(), "references": str(references), "parser": job.scored.parser}
    return {
        "name": name,
        "checkpoint": str(job.checkpoint) if job.checkpoint else None,
        "prompts": str(prompts),
        "intervention": job.intervention,
        "control": job.control,
        "keep_latents": job.keep_latents,
        "reference_latents": str(job.reference_latents) if job.reference_latents else None,
        "seed": job.seed,
        "ledger": str(job.ledger) if job.ledger else None,
        "gain": gain,
        **job.settings.model_dump(mode="json"),
    }


def _publish(asked: Asked, folder: Path, name: str) -> Artifact:
    """The program's start is shared out by the time that the jobs took."""

    def take(workspace: Path) -> dict[str, Any]:
        names = ("answers", "unreadable", "pending", "unfinished", "latent_tokens", "text_tokens")
        counts: dict[str, Any] = dict.fromkeys(names, 0)
        for job in asked.jobs:
            table = folder / "answers" / f"{_file(name, job)}.parquet"
            answers, failed = read_parquet(table), read_parquet(table.with_suffix(".failed"))
            answers.write_parquet(workspace / f"{job.name}.parquet")
            failed.write_parquet(workspace / f"{job.name}.failed")
            counts["unreadable"] += failed.height
            counts["pending"] += int(failed["pending"].sum())
            counts["answers"] += answers.height
            counts["unfinished"] += answers.height - int(answers["finished"].sum())
            counts["latent_tokens"] += int(answers["latent_tokens"].sum())
            counts["text_tokens"] += int(answers["text_tokens"].sum())
        return counts

    spent = sum(float((folder / "seconds" / _file(name, job)).read_text()) for job in asked.jobs)
    return asked.work.do(take, spent_before=spent)


def _file(name: str, job: Job) -> str:
    return f"{name}.{job.name}".replace("/", ".")
