"""Asks models through the answering program: many prompt tables, one start, one artifact for each table asked for.

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

from assets.launcher import Context, Launcher, Start
from assets.settings import AnswerSettings
from assets.store import AssetStore, Work, code_of
from training.artifacts import Artifact, digest

PROGRAM = "evaluation.answer"
CODE = code_of("evaluation/answer.py", "training/model", "training/data", "evaluation/interventions.py")


@dataclass(frozen=True)
class Job:
    """One prompt table for one checkpoint; its answers become `{name}.parquet` of the artifact."""

    name: str
    checkpoint: Path
    prompts: Callable[[], pl.DataFrame]
    settings: AnswerSettings
    seed: int
    intervention: str = "none"


@dataclass(frozen=True)
class Asked:
    """An artifact of answers that is wanted, and the jobs that it is made of."""

    work: Work
    jobs: Sequence[Job]


def answer_all(
    context: Context, store: AssetStore, launcher: Launcher, device: str, wanted: Mapping[str, Asked]
) -> dict[str, Artifact]:
    """The artifacts that are wanted, by their names; what is missing is made in one go."""
    found = {name: asked.work.found() for name, asked in wanted.items()}
    missing = {name: asked for name, asked in wanted.items() if found[name] is None}
    if missing:
        folder = store.scratch / "answers" / digest({name: asked.work.version for name, asked in wanted.items()})
        _run(context, launcher, device, folder, missing)
        found |= {name: _publish(asked, folder, name) for name, asked in missing.items()}
        shutil.rmtree(folder)
    return {name: artifact for name, artifact in found.items() if artifact is not None}


def _run(context: Context, launcher: Launcher, device: str, folder: Path, missing: Mapping[str, Asked]) -> None:
    for name in ("prompts", "answers"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    jobs = []
    for name, asked in missing.items():
        for job in asked.jobs:
            path = folder / "prompts" / f"{_file(name, job)}.parquet"
            job.prompts().write_parquet(path)
            jobs.append(
                {
                    "name": _file(name, job),
                    "checkpoint": str(job.checkpoint),
                    "prompts": str(path),
                    "intervention": job.intervention,
                    "seed": job.seed,
                    **job.settings.model_dump(mode="json"),
                }
            )
    jobs.sort(key=lambda job: (job["checkpoint"], job["name"]))  # a program loads few checkpoints
    size = -(-len(jobs) // launcher.together)
    shares = [jobs[i : i + size] for i in range(0, len(jobs), size)]
    starts = [
        Start(
            PROGRAM,
            folder / "programs" / str(i),
            {"jobs": share, "device": device, "answers": str(folder / "answers")},
        )
        for i, share in enumerate(shares)
    ]
    started = time.monotonic()
    results = launcher.run_together(context, starts)
    spent = time.monotonic() - started
    own = {name: told["seconds"] for result in results for name, told in result.items()}
    total = sum(own.values()) or 1.0
    (folder / "seconds").mkdir(exist_ok=True)
    for name, seconds in own.items():
        (folder / "seconds" / name).write_text(str(spent * seconds / total))


def _publish(asked: Asked, folder: Path, name: str) -> Artifact:
    """The program's start is shared out by the time that the jobs took."""

    def take(workspace: Path) -> dict[str, Any]:
        counts: dict[str, Any] = {"answers": 0, "unfinished": 0, "latent_tokens": 0, "text_tokens": 0}
        for job in asked.jobs:
            answers = pl.read_parquet(folder / "answers" / f"{_file(name, job)}.parquet")
            answers.write_parquet(workspace / f"{job.name}.parquet")
            counts["answers"] += answers.height
            counts["unfinished"] += answers.height - int(answers["finished"].sum())
            counts["latent_tokens"] += int(answers["latent_tokens"].sum())
            counts["text_tokens"] += int(answers["text_tokens"].sum())
        return counts

    spent = sum(float((folder / "seconds" / _file(name, job)).read_text()) for job in asked.jobs)
    return asked.work.do(take, spent_before=spent)


def _file(name: str, job: Job) -> str:
    return f"{name}.{job.name}".replace("/", ".")
