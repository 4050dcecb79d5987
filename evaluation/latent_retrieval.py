"""`python -m evaluation.latent_retrieval --config config.json`: future-frame retrieval by latents of stored answers.

For each model: where the true future frame ranks for every latent span (`evaluation.latents.retrieval_report`), in
`{out}/{name}/latent_retrieval.json`, and a picture, `retrieved_frames.png`, with a linear read-out that paints the
latents (`latents.readout`).  With several models, `{out}/retrieved_frames.png` shows them together: the same items,
before and after a training.  No model decodes anything: only its vision tower encodes the benchmark's images, once.

With `rows`, also the mean latent target of these training rows, `{out}/{name}/mean.safetensors`, which an intervention
puts in the place of latents.  Models that were trained from one base share its frozen tower, and so the mean.
"""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from training.runtime.imports import importing
from training.runtime.programs import ProgramConfig, Reporter, run_program
from training.storage.files import atomic_write, write_json
from training.storage.hashing import stable_hash
from training.storage.parquet import scan_parquet

with importing():
    import torch
    from safetensors.torch import save_file

    from evaluation.latents.frame_pool import FrameEncoder, FramePool, list_items
    from evaluation.latents.retrieval import SpanScores, read_answers, sample_pictured, score_spans
    from evaluation.latents.retrieval_report import MEAN_FILE, PICTURE_FILE, REPORT_FILE, retrieval_report
    from evaluation.latents.retrieval_sheet import retrieval_sheet
    from training.model.checkpoint import FutureL1, load
    from training.model.placement import placement
    from training.model.rows import RowReader
    from training.sft.inspection import latent_config_of


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
    """The measurements of each job's model: retrieval on `items`, the mean latent target of `rows`, or both.

    items: TwiFF-Bench's (benchmarks.twiffbench.ItemTable); others: frames of other clips beside each item's own;
    pictured: items in a picture.  rows: trajectories (training.runtime.programs.TrainingConfig.data), of which
    `mean_rows`, sampled by a hash of their ids, make the mean.
    """

    jobs: list[LatentRetrievalJob] = Field(min_length=1)
    items: Path | None = None
    others: int = Field(default=100, ge=0)
    pictured: int = Field(default=6, ge=1)
    seed: int = 0
    rows: Path | None = None
    mean_rows: int = Field(default=512, ge=1)

    @model_validator(mode="after")
    def _jobs_match_inputs(self) -> "LatentRetrievalConfig":
        names = [job.name for job in self.jobs]
        if len(set(names)) < len(names):
            raise ValueError(f"jobs must have different names; found {names}")
        if any((job.answers is None) != (self.items is None) for job in self.jobs):
            raise ValueError("give items and each job's answers, or neither of them where only means are wanted")
        if self.items is None and self.rows is None:
            raise ValueError("nothing to do: give items and answers, or rows to take a mean of")
        return self


def main(config: LatentRetrievalConfig, reporter: Reporter) -> dict[str, Any]:
    """All jobs, one model in memory at a time; per job its sentence and spans, and the counts of its mean.

    Raises ValueError for answers whose latents cannot be read, naming the answer.
    """
    result: dict[str, dict[str, Any]] = {job.name: {} for job in config.jobs}
    retrieval = _Retrieval(config, reporter) if config.items else None
    means: dict[str, str] = {}
    for job in config.jobs:
        (config.out / job.name).mkdir(parents=True, exist_ok=True)
        bundle = load(job.checkpoint, *placement(config.device))
        if config.rows is not None:
            progress = partial(reporter.progress, what=f"mean of {job.name}'s targets")
            target = config.out / job.name / MEAN_FILE
            same = means.setdefault(_targets_key(bundle), job.name)
            if same == job.name:
                counts = _write_mean(bundle, config.rows, config.mean_rows, config.seed, target, progress)
            else:
                shutil.copyfile(config.out / same / MEAN_FILE, target)
                counts = result[same]["mean"]
            result[job.name]["mean"] = counts
        if retrieval is not None:
            result[job.name] |= retrieval.job(job, bundle)
    if retrieval is not None and len(retrieval.models) > 1:
        _write_sheet(config.out / PICTURE_FILE, retrieval.models)
    return result


class _Retrieval:
    """The data that all jobs share: the items, the frames of other clips, and the items that are pictured."""

    def __init__(self, config: LatentRetrievalConfig, reporter: Reporter) -> None:
        assert config.items is not None
        self.path, self.config, self.reporter = config.items, config, reporter
        self.items = list_items(config.items)
        self.pool = FramePool(config.items, self.items, config.others, config.seed)
        self.pictured = sample_pictured(self.items, config.pictured, config.seed)
        self.models: dict[str, SpanScores] = {}

    def job(self, job: LatentRetrievalJob, bundle: FutureL1) -> dict[str, Any]:
        """Scores and pictures one model."""
        assert job.answers is not None
        scores = self.models[job.name] = score_spans(
            FrameEncoder(bundle, job.latents), read_answers(job.answers), self.path, self.pool, self.pictured,
            self.config.seed, lambda done: self.reporter.progress(done, len(self.items), f"retrieval of {job.name}"),
        )  # fmt: skip
        report = retrieval_report(scores.scores, scores.left_out, job.model_kind)
        report["readout"] = scores.readout.as_dict() if scores.readout else None
        folder = self.config.out / job.name
        write_json(folder / REPORT_FILE, report, sort_keys=True)
        _write_sheet(folder / PICTURE_FILE, {job.name: scores})
        self.reporter.log(f"{job.name}: {report['sentence']}")
        return {"sentence": report["sentence"], "spans": report["n_spans"]}


def _targets_key(bundle: FutureL1) -> str:
    """A hash of what latent targets depend on besides the rows: the tower's weights and the latent configuration."""
    key = hashlib.sha256(latent_config_of(bundle, None, None).model_dump_json().encode())
    for weight in bundle.model.model.visual.state_dict().values():
        key.update(weight.cpu().reshape(-1).view(torch.uint8).numpy())
    return key.hexdigest()


def _write_mean(
    bundle: FutureL1, rows: Path, n: int, seed: int, target: Path, progress: Callable[[int, int], None]
) -> dict[str, int]:
    """Writes tensor `mean` [D], the mean over all latent targets of at most `n` rows, sampled by a hash of their ids.

    rows: training.runtime.programs.TrainingConfig.data.  Returns the rows and latents in it, and the rows that could
    not be read.  A base model has the paper's L_max.  Raises ValueError when no row gives a target.
    """
    table = scan_parquet(rows)
    ids = sorted(table.select("row_id").collect()["row_id"].to_list(), key=lambda name: stable_hash(seed, name))[:n]
    chosen = table.filter(pl.col("row_id").is_in(ids)).collect()
    reader, vision = RowReader(bundle.encoder(latent_config_of(bundle, None, None)), keep=False), bundle.vision()
    total, latents, unreadable = torch.zeros(vision.width, dtype=torch.float64), 0, []
    for number, row in enumerate(chosen.iter_rows(named=True), start=1):
        try:
            targets = vision.merged(reader.dialogue(row, spans=True).future)
        except (ValueError, OSError) as error:
            unreadable.append(f"{row['row_id']}: {error}")
            continue
        total += targets.double().sum(0).cpu()
        latents += len(targets)
        progress(number, chosen.height)
    if not latents:
        first = unreadable[0] if unreadable else "none has future frames"
        raise ValueError(f"{rows}: none of {chosen.height} rows gives a latent target: {first}")
    counts = {"rows": chosen.height - len(unreadable), "latents": latents, "unreadable": len(unreadable)}
    with atomic_write(target) as fresh:
        save_file({"mean": (total / latents).float()}, fresh, {name: str(count) for name, count in counts.items()})
    return counts


def _write_sheet(target: Path, models: Mapping[str, SpanScores]) -> None:
    with atomic_write(target) as fresh:
        fresh.write_bytes(retrieval_sheet(models))


if __name__ == "__main__":
    run_program(LatentRetrievalConfig, main)
