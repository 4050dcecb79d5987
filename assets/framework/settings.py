"""What the stages are told, as data: a profile is made of these, and no stage asks which profile it is in."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from assets.curation.prompts import PromptSettings
from assets.curation.selection import SelectionSettings
from assets.trajectories.locations import checked
from evaluation.benchmarks.futurebench import FutureBenchSettings
from evaluation.benchmarks.twiffbench import TwiffBenchSettings
from evaluation.generation.controls import ControlName
from evaluation.generation.curtailment import GainRule
from evaluation.generation.requests import Asking, InterventionName
from training.chat.endpoint import EndpointSettings
from training.grading.parsers import ParserName
from training.recipes import RlRecipe, SftRecipe


class Settings(BaseModel):
    """Frozen, and no unknown fields: a misspelt line in an overlay is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceSettings(Settings):
    """Where the sources are."""

    trajectories: Annotated[str, BeforeValidator(checked)]
    """TwiFF shards (parquet, JSON lines, JSON): a folder, an fsspec URL or `hf://datasets/ORG/NAME@REVISION`, and in
    each of them, with a pattern after it, some of the files."""
    clips: tuple[Annotated[str, BeforeValidator(checked)], ...]
    """Clip roots, folders or fsspec URLs; a row's video must lead inside one of them. The first that has it counts."""
    futurebench: Path
    """Folder with `futurebench.json` and `first_part_video/`."""
    twiffbench: Path
    """Folder with `test-*.parquet`."""
    quarantine_limit: float = Field(default=0.05, ge=0, le=1)
    """The share of rows in quarantine above which a check fails."""


class AnswerSettings(Asking):
    """How a model is asked, and for how many answers: fields of an answering job."""

    samples: int = 1
    system: str | None = None


class ChoiceSource(Settings):
    """V1-33K: its rows, and the folders with the observed parts of its videos."""

    name: str = "v1_33k_2k"
    rows: tuple[Path, ...]
    videos: tuple[Path, ...]
    wanted: int = Field(default=2_000, ge=1)


class CurationSettings(Settings):
    """How rows become Future-L1-50K."""

    prompts: PromptSettings
    answers: AnswerSettings
    endpoint: EndpointSettings | None = None
    """An OpenAI-compatible server that has the base model; None: it is loaded here."""
    parser: ParserName
    selection: SelectionSettings
    round: int = Field(default=4, ge=1)
    """Answers of a row and condition that are asked for at a time."""
    audit: float = Field(default=0.01, ge=0, le=1)
    """The share of rows that is answered in full whatever the outcome; 1 turns curtailment off."""
    given: bool = False
    """The source brings its own counts (Future-L1-50K): nothing is answered."""
    disjoint_from: tuple[Literal["futurebench", "twiffbench"], ...] = ("futurebench", "twiffbench")
    """The benchmarks whose items must not be in the published set."""
    versions_kept: int = Field(default=20, ge=1)
    """Publications of the set that stay in the store, the current one among them."""
    rl_sets: dict[str, int] = Field(min_length=1)
    """RL sets by name: so many rows of the retained pool."""
    rl_avoids_sft: bool = True
    """RL sets have no clip of the published set; else their overlap with it is counted."""
    choices: ChoiceSource | None = None
    """V1-33K's multiple-choice rows as one more RL set."""
    retry_refused: bool = False
    """Prompts that a server refused, or whose frames could not be read, are asked again at each start."""
    hub: str | None = None
    """The dataset repository that `curation/hub` pushes to."""

    @model_validator(mode="after")
    def _choices_are_kept_off_futurebench(self) -> "CurationSettings":
        if self.choices and "futurebench" not in self.disjoint_from:
            raise ValueError("curation.choices needs futurebench in curation.disjoint_from: its rows must not be in it")
        return self

    @property
    def rule(self) -> GainRule:
        """What keeps a row, and how its answers are asked for."""
        return GainRule(
            samples=self.answers.samples,
            max_p_t=self.selection.max_p_t,
            min_gain=self.selection.min_gain,
            round=self.round,
            audit=self.audit,
        )


class SftRun(Settings):
    """One SFT checkpoint: its recipe, and which of `curation/sft_sets` it trains on."""

    recipe: SftRecipe
    data: str


class RlRun(Settings):
    """One RL checkpoint: its recipe, which of `curation/rl_sets` it trains on, and the SFT run it starts from."""

    recipe: RlRecipe
    data: str
    start: str


class FutureBenchRun(Settings):
    """FutureBench: how items are shown and read, and how models are asked."""

    recipe: FutureBenchSettings
    answers: AnswerSettings


class TwiffBenchRun(Settings):
    """TwiFF-Bench: the same."""

    recipe: TwiffBenchSettings
    answers: AnswerSettings


class NecessitySettings(Settings):
    """The latent-necessity experiment: interventions on latents, and controls, on `n` FutureBench items (None: all)."""

    models: tuple[str, ...]
    """The models that the whole plan asks; any other can be asked by hand."""
    interventions: tuple[InterventionName, ...]
    controls: tuple[ControlName, ...] = ()
    n: int | None


class BenchmarkSettings(Settings):
    futurebench: FutureBenchRun
    twiffbench: TwiffBenchRun
    necessity: NecessitySettings
