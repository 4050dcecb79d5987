"""Settings of the curation: how rows become Future-L1-50K and the sets that models are trained on."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from assets.curation.prompts import PromptSettings
from assets.curation.selection import SelectionSettings
from assets.framework.settings import RunOverrides, Settings
from evaluation.generation.config import GenerationConfig
from evaluation.generation.curtailment import GainRule
from training.chat.endpoint import EndpointSettings
from training.grading.parsers import ParserName
from training.recipes import NAME

SetName = Annotated[str, Field(pattern=NAME)]


class MultipleChoiceSet(Settings):
    """V1-33K: its files of rows, the folders with the observed parts of its videos, and how many rows to sample."""

    name: SetName = "v1_33k_2k"
    """The name of the RL set."""
    files: tuple[Path, ...]
    """V1-33K's files of rows: JSON, JSON lines or parquet."""
    videos: tuple[Path, ...]
    """The folders with the observed parts of its videos."""
    rows: int = Field(default=2_000, ge=1)
    """How many rows are sampled."""


class CurationSettings(Settings):
    """The settings of Future-L1-50K's curation."""

    prompts: PromptSettings
    """The prompts that rows become."""
    answers: GenerationConfig
    """How answers are generated, and how many for a row and condition."""
    endpoint: EndpointSettings | None = None
    """An OpenAI-compatible server that has the base model; None: it is loaded here."""
    parser: ParserName
    """The parser of answers to multiple choice."""
    selection: SelectionSettings
    """The thresholds, and the size of the set."""
    samples_per_round: int = Field(default=4, ge=1)
    """Answers of a row and condition that are generated in one round."""
    full_sampling_fraction: float = Field(default=0.01, ge=0, le=1)
    """The fraction of rows that is answered in full whatever the outcome; 1 turns curtailment off."""
    use_source_counts: bool = False
    """Take the counts that the source brings (Future-L1-50K), and answer nothing."""
    disjoint_from: tuple[Literal["futurebench", "twiffbench"], ...] = ("futurebench", "twiffbench")
    """The benchmarks whose items must not be in the published set."""
    versions_kept: int = Field(default=20, ge=1)
    """Publications of the set that stay in the store, the current one among them."""
    rl_sets: dict[SetName, PositiveInt] = Field(min_length=1)
    """RL sets by name: so many rows of the retained pool."""
    rl_avoids_sft: bool = True
    """RL sets have no clip of the published set; else their overlap with it is counted."""
    multiple_choice_set: MultipleChoiceSet | None = None
    """V1-33K's multiple-choice rows as one more RL set."""
    retry_refused: bool = False
    """Prompts that a server refused, or whose frames could not be read, are sent again at each start."""

    @model_validator(mode="after")
    def _multiple_choice_set_is_disjoint_from_futurebench(self) -> "CurationSettings":
        if self.multiple_choice_set and "futurebench" not in self.disjoint_from:
            raise ValueError("curation.multiple_choice_set needs futurebench in curation.disjoint_from: add it there")
        return self

    @property
    def rule(self) -> GainRule:
        """The rule that keeps a row, with the sampling of its answers."""
        return GainRule(
            samples=self.answers.samples,
            max_p_t=self.selection.max_p_t,
            min_gain=self.selection.min_gain,
            samples_per_round=self.samples_per_round,
            full_sampling_fraction=self.full_sampling_fraction,
        )


class SelectionConfig(RunOverrides):
    """Run config of the selection: other thresholds, or another size, for Future-L1-50K."""

    minimum: ClassVar[dict[str, int]] = {"top": 1, "max_p_t": 0}

    top: int = Field(description="How many rows to publish at most.")
    max_p_t: int = Field(
        description="Keep rows with at most so many right answers without the hint (the paper: 6 of 8). Not more than "
        "the rows were scored for."
    )
    min_gain: int = Field(
        description="Keep rows that the hint gains at least so many right answers (the paper: 2). Not fewer than the "
        "rows were scored for."
    )

    def thresholds(self, samples: int) -> SelectionSettings:
        """Raises ValueError where no row of `samples` answers could be kept."""
        if self.min_gain > samples:
            raise ValueError(f"run config: min_gain is {self.min_gain}, and a row has {samples} answers a condition")
        return SelectionSettings(**self.values())
