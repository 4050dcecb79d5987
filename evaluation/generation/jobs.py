"""Generation jobs, as data: a job is a table of prompts for one model, with every setting that its answers depend
on."""

from pathlib import Path
from typing import Any, Literal, get_args

import polars as pl
from pydantic import BaseModel, ConfigDict, model_validator

from evaluation.generation.config import GenerationConfig
from evaluation.generation.controls import ControlName
from evaluation.generation.curtailment import GainRule
from training.chat.endpoint import EndpointSettings, ServerSettings
from training.data.prompts import LATENTS, READINGS
from training.grading.judge import JudgeSettings
from training.grading.parsers import ParserName
from training.runtime.programs import ProgramConfig
from training.storage.hashing import digest, file_digest, model_digest

InterventionName = Literal[
    "none", "zeros", "noise", "mean", "other_item", "same_answer", "other_answer", "first_repeated", "markers_only",
    "no_span", "spans_1", "spans_2", "spans_3", "masked_frames", "masked_spans", "kept_1", "kept_2", "kept_3",
    "added_noise_25", "added_noise_50", "added_noise_100", "added_noise_200",
]  # fmt: skip
"""The replacement of a model's own latents (see evaluation.generation.interventions)."""
INTERVENTIONS: tuple[InterventionName, ...] = get_args(InterventionName)
DONOR_INTERVENTIONS: tuple[InterventionName, ...] = ("other_item", "same_answer", "other_answer")
"""The interventions under which an answer depends on other answers of its batch: the donors of latents."""
MediationName = Literal["original_latents", "changed_latents"]
"""The interventions that measure mediation under a control: the prompt under the control with the latents of the answer
to the prompt as it is, and the other way round."""
MEDIATIONS: tuple[MediationName, ...] = get_args(MediationName)
LOCAL_INTERVENTIONS: tuple[InterventionName | MediationName, ...] = (
    "masked_frames", "masked_spans", "kept_1", "kept_2", "kept_3", "added_noise_25", "added_noise_50",
    "added_noise_100", "added_noise_200", *MEDIATIONS,
)  # fmt: skip
"""The interventions that need local decoding: no server has them."""

SERVED_ENGINE = "vllm"
"""The engine of served checkpoints, as ledgers and versions name it."""


class VisualGainScoring(BaseModel):
    """Verdicts between rounds of answers, for exact curtailment: prompts are `{row_id}/{condition}`.

    The prompt table has each row's `question` and its answer as `reference`.  `judge_replies`: the file of the judge's
    replies; None: the judge's own `cache`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: GainRule
    parser: ParserName
    judge_replies: Path | None = None


class AnswerJob(BaseModel):
    """One table of prompts for one model; the answers go to `{answers}/{name}.parquet`, the refused prompts to
    `{answers}/{name}.failed`.

    `checkpoint`: a model's folder; None where the program's endpoint has the model.  `endpoint`: the servers that have
    the checkpoint (`future-l1 serve`); None: this machine loads it.  `ledger`: where answers are kept for other
    runs, too, of this model, sampling, intervention and control; None: beside the table, for as long as the job is not
    done.  `control`: the change of the prompts (evaluation.generation.controls).  `reference_latents`: the
    safetensors file whose tensor `mean` [D] the intervention "mean" feeds.  `keep_latents`: the table has the column
    `latents`, the vectors as they were fed.  `read_latents`: it has the columns `attention` and `words`
    (evaluation.generation.readings).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    checkpoint: Path | None
    endpoint: ServerSettings | None = None
    prompts: Path
    generation: GenerationConfig
    seed: int = 0
    intervention: InterventionName | MediationName = "none"
    control: ControlName = "none"
    reference_latents: Path | None = None
    keep_latents: bool = False
    read_latents: bool = False
    ledger: Path | None = None
    gain: VisualGainScoring | None = None

    @model_validator(mode="after")
    def _check_combinations(self) -> "AnswerJob":
        if self.gain and self.gain.rule.samples != self.generation.samples:
            raise ValueError(
                f"job {self.name!r} has {self.generation.samples} samples, its rule {self.gain.rule.samples}"
            )
        if (self.intervention == "mean") != (self.reference_latents is not None):
            raise ValueError(f"job {self.name!r}: intervention 'mean' and reference_latents need each other")
        if self.gain and self.control != "none":
            raise ValueError(f"job {self.name!r}: visual gain is scored on prompts as they are, not under a control")
        if self.intervention in MEDIATIONS and self.control == "none":
            raise ValueError(f"job {self.name!r}: intervention {self.intervention!r} needs a control, which changes "
                             "the prompt")  # fmt: skip
        if self.endpoint and self.checkpoint is None:
            raise ValueError(f"job {self.name!r}: the servers of a checkpoint need its folder, too, to compare with")
        if self.endpoint:
            check_served_intervention(self.intervention)
            if self.read_latents:
                raise ValueError(f"job {self.name!r}: reading latents needs a model that is loaded here")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The optional columns of its table of answers that every answer must have."""
        return (*((LATENTS,) if self.keep_latents else ()), *(READINGS if self.read_latents else ()))

    def ledger_contents(self, prompts: pl.DataFrame) -> dict[str, Any]:
        """The settings that the answers of a ledger share: model, sampling, seed, intervention and control, and the
        engine where it is not ours, whose rounding differs.

        Where latents come from other prompts, those prompts are part of them.  Raises ValueError for a folder without
        weights.
        """
        assert self.checkpoint is not None
        contents = {
            "model": model_digest(self.checkpoint),
            "sampling": self.generation.sampling(),
            **self.model_dump(mode="json", include={"seed", "intervention", "control"}),
        }
        if self.endpoint:
            contents["engine"] = SERVED_ENGINE
        if self.control == "other_frames":
            contents["frames_of"] = digest(sorted(prompts["key"]))
        if self.intervention in DONOR_INTERVENTIONS:
            lenders = prompts.select("key", "reference").sort("key").rows()
            contents |= {"donors": digest(lenders), "batch_size": self.generation.batch_size}
        if self.reference_latents is not None:
            contents["reference_latents"] = file_digest(self.reference_latents)
        return contents


class GenerateConfig(ProgramConfig):
    """Config of `python -m evaluation.generate`: the jobs, and the servers that they need."""

    jobs: list[AnswerJob]
    answers: Path | None = None  # where the tables go, shared by programs side by side; None: `out`
    endpoint: EndpointSettings | None = None
    judge: JudgeSettings | None = None  # for the jobs that score visual gain
    vision_cache_gib: float = 0.5
    frames_cache_gib: float = 0.5

    @model_validator(mode="after")
    def _check_jobs(self) -> "GenerateConfig":
        names = [job.name for job in self.jobs]
        if len(set(names)) < len(names):
            raise ValueError(f"jobs must have different names; found {names}")
        for job in self.jobs:
            if (job.checkpoint is None) != (self.endpoint is not None):
                raise ValueError(f"job {job.name!r} needs a checkpoint, or all jobs an endpoint, and not both")
        return self


def check_served_intervention(intervention: InterventionName | MediationName) -> None:
    """Raises ValueError for an intervention that no server can do."""
    if intervention in LOCAL_INTERVENTIONS:
        raise ValueError(f"intervention {intervention!r} needs a model that is loaded here: a server can do "
                         f"{', '.join(name for name in INTERVENTIONS if name not in LOCAL_INTERVENTIONS)}")  # fmt: skip
