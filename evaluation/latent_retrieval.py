"""`python -m evaluation.latent_retrieval --config config.json`: future-frame retrieval by latents of stored answers.

For each model: where the true future frame ranks for every latent span (`evaluation.latents.retrieval_report`), in
`{out}/{name}/latent_retrieval.json`, and a picture, `retrieved_frames.png`, with a linear read-out that paints the
latents (`latents.readout`).  With several models, `{out}/retrieved_frames.png` shows them together: the same items,
before and after a training.  No model decodes anything: only its vision tower encodes the benchmark's images, once.

With `means`, also the mean feature of the future frames in the training rows, `{out}/{name}/mean.safetensors`, which an
intervention puts in the place of latents.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from evaluation.latents.featuremean import write_mean
from evaluation.latents.frame_pool import FrameEncoder, FramePool, list_items
from evaluation.latents.readout import Readout
from evaluation.latents.retrieval import RetrievedItem, drawn_items, read_answers, sample_pictured, score_spans
from evaluation.latents.retrieval_report import MEAN_FILE, PICTURE_FILE, REPORT_FILE, retrieval_report
from evaluation.latents.retrieval_sheet import retrieval_sheet
from training.model.checkpoint import FutureL1, load
from training.model.saving import placement
from training.runtime.programs import ProgramConfig, Reporter, run_program
from training.storage.files import whole


class LatentRetrievalJob(BaseModel):
    """A model, and its answers (training.data.prompts.ANSWERS with `latents`).

    latents: L_max, if not the checkpoint's; a base model's is the paper's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^\w[\w.-]*$")
    model_kind: Literal["base", "sft", "rl"]
    checkpoint: Path
    answers: Path | None = None
    latents: int | None = Field(default=None, ge=1)


class LatentRetrievalConfig(ProgramConfig):
    """items: TwiFF-Bench's (benchmarks.twiffbench.ItemTable); others: frames of other clips beside each item's own.

    rows: trajectories (training.runtime.programs.TrainingConfig.data), of which `mean_rows`, drawn by lot, make the
    means.
    """

    jobs: list[LatentRetrievalJob] = Field(min_length=1)
    items: Path | None = None
    others: int = Field(default=100, ge=0)
    pictured: int = Field(default=6, ge=1)
    seed: int = 0
    means: bool = False
    rows: Path | None = None
    mean_rows: int = Field(default=512, ge=1)

    @model_validator(mode="after")
    def _there_is_something_to_do(self) -> "LatentRetrievalConfig":
        names = [job.name for job in self.jobs]
        if len(set(names)) < len(names):
            raise ValueError(f"jobs must have different names; found {names}")
        if self.means != (self.rows is not None):
            raise ValueError("means need rows, and rows are for means alone: give both or neither")
        if any((job.answers is None) != (self.items is None) for job in self.jobs):
            raise ValueError("give items and each job's answers, or neither of them where only means are wanted")
        if self.items is None and not self.means:
            raise ValueError("nothing to do: give items and answers, or means and rows")
        return self


Models = dict[str, tuple[Mapping[str, RetrievedItem], Readout | None]]


def main(config: LatentRetrievalConfig, reporter: Reporter) -> dict[str, Any]:
    """All jobs, one model in memory at a time; per job its sentence and spans, and what its mean was made of.

    Raises ValueError for answers whose latents cannot be read, naming the answer.
    """
    result: dict[str, dict[str, Any]] = {job.name: {} for job in config.jobs}
    looked = _Looking(config, reporter) if config.items else None
    for job in config.jobs:
        (config.out / job.name).mkdir(parents=True, exist_ok=True)
        bundle = load(job.checkpoint, *placement(config.device))
        if config.rows is not None:
            told = partial(reporter.progress, what=f"mean of {job.name}'s targets")
            target = config.out / job.name / MEAN_FILE
            result[job.name]["mean"] = write_mean(bundle, config.rows, config.mean_rows, config.seed, target, told)
        if looked is not None:
            result[job.name] |= looked.job(job, bundle)
    if looked is not None and len(looked.models) > 1:
        looked.draw(config.out / PICTURE_FILE, looked.models)
    return result


class _Looking:
    """What all jobs share: the items, frames of other clips, and the items that are pictured."""

    def __init__(self, config: LatentRetrievalConfig, reporter: Reporter) -> None:
        assert config.items is not None
        self.items, self.config, self.reporter = config.items, config, reporter
        self.known = list_items(config.items)
        self.pool = FramePool(config.items, self.known, config.others, config.seed)
        self.shown = sample_pictured(self.known, config.pictured, config.seed)
        self.models: Models = {}

    def job(self, job: LatentRetrievalJob, bundle: FutureL1) -> dict[str, Any]:
        """Scores and pictures one model."""
        assert job.answers is not None
        answers, total = read_answers(job.answers), len(self.known)
        seen = score_spans(
            FrameEncoder(bundle, job.latents), answers, self.items, self.pool, self.shown, self.config.seed,
            lambda done: self.reporter.progress(done, total, f"what {job.name} imagined"),
        )  # fmt: skip
        readout = seen.fit.fit()
        report = retrieval_report(seen.scores, seen.left_out, job.model_kind)
        report["readout"] = readout.as_dict() if readout else None
        folder = self.config.out / job.name
        with whole(folder / REPORT_FILE) as fresh:
            fresh.write_text(json.dumps(report, indent=1, sort_keys=True, allow_nan=False) + "\n")
        self.models[job.name] = seen.pictured, readout
        self.draw(folder / PICTURE_FILE, {job.name: self.models[job.name]})
        self.reporter.log(f"{job.name}: {report['sentence']}")
        return {"sentence": report["sentence"], "spans": report["n_spans"]}

    def draw(self, target: Path, models: Models) -> None:
        """The pictured items with these models' spans; their read-outs are of one tower, so the first one speaks."""
        _, readout = next(iter(models.values()))
        drawn = retrieval_sheet(drawn_items(self.shown, models), readout.as_dict() if readout else None)
        with whole(target) as fresh:
            fresh.write_bytes(drawn)


if __name__ == "__main__":
    run_program(LatentRetrievalConfig, main)
