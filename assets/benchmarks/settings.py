"""Settings of the benchmarks: recipes, generation of answers, and the latent-necessity experiment."""

from collections.abc import Mapping
from typing import ClassVar, Generic, TypeVar

from pydantic import BaseModel, Field, PositiveInt

from assets.framework.settings import RunOverrides, Settings
from evaluation.benchmarks.futurebench_items import FutureBenchSettings
from evaluation.benchmarks.seedbench import SeedBenchSettings
from evaluation.benchmarks.twiffbench_items import TwiffBenchSettings
from evaluation.generation.config import GenerationConfig
from evaluation.generation.controls import ChangeName, ControlName
from evaluation.generation.jobs import InterventionName
from training.chat.endpoint import ServerSettings

Recipe = TypeVar("Recipe", bound=BaseModel)
Endpoints = Mapping[str, ServerSettings]
"""The servers of models, by the models' names."""


class GenerationSettings(Settings):
    """The engine by which models answer benchmarks."""

    endpoint: Endpoints = Field(default_factory=dict)
    """By a model's name: the vLLM servers that have its checkpoint (`future-l1 serve`). Other models are loaded
    here."""


class AnsweredBenchmark(Settings, Generic[Recipe]):
    """A benchmark: its recipe (layout, and parser or judge), and how answers are generated."""

    recipe: Recipe
    """How its items are shown, and how answers are parsed or judged."""
    answers: GenerationConfig
    """How answers are generated."""


FutureBenchRun = AnsweredBenchmark[FutureBenchSettings]
TwiffBenchRun = AnsweredBenchmark[TwiffBenchSettings]
SeedBenchRun = AnsweredBenchmark[SeedBenchSettings]


class NecessitySettings(Settings):
    """The latent-necessity experiment: interventions on latents, and controls, on `n` FutureBench items (None: all)."""

    models: tuple[str, ...]
    """The models whose latents are examined: the partitions of latent retrieval, intervened answers and necessity."""
    interventions: tuple[InterventionName, ...]
    """What is put in the latents' place."""
    controls: tuple[ControlName, ...] = ()
    """What is changed of the prompt."""
    mediation: tuple[ChangeName, ...] = ()
    """The changes of the frames whose effect is measured with and without the latents."""
    n: PositiveInt | None
    """How many FutureBench items are answered again; None: all."""


class BenchmarkSettings(Settings):
    """All benchmarks of a profile."""

    futurebench: FutureBenchRun
    """FutureBench."""
    twiffbench: TwiffBenchRun
    """TwiFF-Bench."""
    seedbench: SeedBenchRun
    """Where the source names its folder."""
    necessity: NecessitySettings
    """The latent-necessity experiment."""


class AnswersConfig(RunOverrides):
    """Run config of answers: other limits on generation."""

    minimum: ClassVar[dict[str, int]] = {"max_new_tokens": 1, "batch_size": 1}

    max_new_tokens: dict[str, int] = Field(
        description="The longest answer, in tokens, by benchmark; a longer one is cut."
    )
    batch_size: dict[str, int] = Field(description="Answers whose prompts are read at a time, by benchmark.")


class JudgeConfig(RunOverrides):
    """Run config of judged scores: another number of judgements."""

    minimum: ClassVar[dict[str, int]] = {"judge_samples": 1}

    judge_samples: int = Field(description="Judgements of each answer, whose mean is its mark.")


class NecessityConfig(RunOverrides):
    """Run config of latent necessity: fewer items, for a first look, or more than the profile takes."""

    minimum: ClassVar[dict[str, int]] = {"n": 0}

    n: int = Field(description="FutureBench items to answer again; 0: all of them.")
