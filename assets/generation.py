"""Generates answers for assets: many jobs, one start of `evaluation.generate`, one artifact for each set of jobs.

Importing torch and loading a model costs more than many a table takes, so whatever a run still needs goes into one
program, or into as many as the machine runs side by side. What was published before is not generated again; what a
killed run had finished is not either.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from assets.framework.store import AssetStore, Work
from assets.launching.backend import Context
from assets.launching.launcher import Launcher
from evaluation.generation.jobs import SERVED_ENGINE, AnswerJob, GenerateConfig
from evaluation.generation.ledger import engines_of
from evaluation.generation.program import PROGRAM, start_of
from training.chat.endpoint import EndpointSettings, ServerSettings
from training.data.prompts import ENGINE
from training.grading.judge import JudgeSettings
from training.storage.artifacts import Artifact
from training.storage.hashing import digest
from training.storage.parquet import read_parquet, scan_parquet


@dataclass(frozen=True)
class AnswerWork:
    """An artifact of answers to one prompt table.

    `jobs`: by name, each an AnswerJob but for its name and its prompts; a job's answers become `{name}.parquet`, and
    the prompts without an answer `{name}.failed`.
    """

    work: Work
    prompts: Callable[[], pl.DataFrame]
    jobs: Mapping[str, partial[AnswerJob]]


def engine_of(model: str, endpoints: Mapping[str, ServerSettings]) -> dict[str, str]:
    """What a version says of the engine of a model's answers: nothing of our own; another one's rounding differs."""
    return {"engine": SERVED_ENGINE} if model in endpoints else {}


def answers_pool(models: Iterable[str], endpoints: Mapping[str, ServerSettings]) -> str:
    """The pool of the step that generates the answers of these models."""
    return "endpoint" if endpoints.keys() >= set(models) else "gpu"


Inputs = Mapping[str, Artifact | str]


def next_work(of: Callable[[Inputs], Work], inputs: Inputs, retry_refused: bool = False) -> Work:
    """The work that holds the answers now, or the one to do next where prompts were left without an answer.

    `of` makes the work from its inputs.  Pending prompts are sent again at each start, refused ones where that is
    wanted; each time makes a version of its own, which names the one before.
    """
    work = of(inputs)
    while (made := work.published()) is not None:
        following, left = of({**inputs, "retry_of": made.version}), made.provenance["counts"]
        wanted = left["refused"] if retry_refused else left.get("pending", 0)
        if not wanted and following.published() is None:
            break
        work = following
    return work


def generate_answers(
    context: Context,
    store: AssetStore,
    launcher: Launcher,
    device: str,
    wanted: Mapping[str, AnswerWork],
    endpoint: EndpointSettings | None = None,
    judge: JudgeSettings | None = None,
) -> dict[str, Artifact]:
    """The artifacts that are wanted, by their names; what is missing is made in one go.

    `endpoint`: the server of the jobs without a checkpoint; `judge`: for the jobs that score visual gain.  Served
    models leave this machine's devices alone.
    """
    artifacts = {name: answers.work.reuse() for name, answers in wanted.items()}
    missing = {name: answers for name, answers in wanted.items() if artifacts[name] is None}
    if missing:
        folder = store.scratch / "answers" / digest({name: answers.work.version for name, answers in wanted.items()})
        jobs = [job for name, answers in missing.items() for job in _jobs(folder, name, answers)]
        config = partial(GenerateConfig, answers=folder / "answers", endpoint=endpoint, judge=judge)
        seconds = _run(context, launcher, folder, config, jobs, device)
        artifacts |= {name: _publish(answers, folder, name, seconds) for name, answers in missing.items()}
        shutil.rmtree(folder)
    return {name: artifact for name, artifact in artifacts.items() if artifact is not None}


def _jobs(folder: Path, name: str, answers: AnswerWork) -> list[AnswerJob]:
    """The jobs of one artifact, their prompts written."""
    prompts = folder / "prompts" / f"{_file(name)}.parquet"
    prompts.parent.mkdir(parents=True, exist_ok=True)
    answers.prompts().write_parquet(prompts)
    return [make(name=_file(name, job), prompts=prompts) for job, make in answers.jobs.items()]


def _run(
    context: Context,
    launcher: Launcher,
    folder: Path,
    config: partial[GenerateConfig],
    jobs: list[AnswerJob],
    device: str,
) -> dict[str, float]:
    """Runs the jobs; the seconds of each, which share the programs' time out as their answers took it."""
    (folder / "answers").mkdir(exist_ok=True)
    starts = [
        start_of(config(out=folder / "programs" / str(number), jobs=share, device="cpu" if served else device))
        for number, (share, served) in enumerate(_shares(jobs, launcher.max_parallel(PROGRAM)))
    ]
    started = time.monotonic()
    results = launcher.run_parallel(context, starts)
    elapsed = time.monotonic() - started
    answering = {name: counts["seconds"] for result in results for name, counts in result.items()}
    total = sum(answering.values()) or 1.0
    return {name: elapsed * seconds / total for name, seconds in answering.items()}


def _shares(jobs: list[AnswerJob], parallel: int) -> Iterator[tuple[list[AnswerJob], bool]]:
    """The jobs of each program, and whether servers have their models: those of the same servers are one program's,
    since a server's one client knows how much it can take."""
    jobs = sorted(jobs, key=lambda job: (str(job.checkpoint or ""), job.name))  # a program loads few checkpoints
    local = [job for job in jobs if job.checkpoint is not None and job.endpoint is None]
    served = [job for job in jobs if job not in local]
    for endpoint in dict.fromkeys(job.endpoint for job in served):
        yield [job for job in served if job.endpoint == endpoint], True
    size = -(-len(local) // parallel)
    for first in range(0, len(local), size or 1):
        yield local[first : first + size], False


def _publish(answers: AnswerWork, folder: Path, name: str, seconds: Mapping[str, float]) -> Artifact:
    def collect(workspace: Path) -> dict[str, Any]:
        names = ("answers", "refused", "pending", "unfinished", "latent_tokens", "text_tokens")
        counts: dict[str, Any] = dict.fromkeys(names, 0)
        engines: set[str] = set()
        for job in answers.jobs:
            path = folder / "answers" / f"{_file(name, job)}.parquet"
            for suffix in (".parquet", ".failed"):
                shutil.copyfile(path.with_suffix(suffix), workspace / f"{job}{suffix}")
            columns = ("finished", "latent_tokens", "text_tokens", f"^{ENGINE}$")  # the last one where there is one
            table = scan_parquet(path).select(columns).collect()
            refused = read_parquet(path.with_suffix(".failed"))
            engines.update(engines_of(table))
            counts["refused"] += refused.height
            counts["pending"] += int(refused["pending"].sum())
            counts["answers"] += table.height
            counts["unfinished"] += table.height - int(table["finished"].sum())
            counts["latent_tokens"] += int(table["latent_tokens"].sum())
            counts["text_tokens"] += int(table["text_tokens"].sum())
        return counts | ({"engines": sorted(engines)} if engines else {})

    return answers.work.do(collect, spent_before=sum(seconds[_file(name, job)] for job in answers.jobs))


def _file(*names: str) -> str:
    return ".".join(names).replace("/", ".")
