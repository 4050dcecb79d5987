"""Jobs by stage, and the order in which they make everything.

A Dagster job holds one partitions definition besides unpartitioned assets, so "everything" is a plan: an ordered list
of jobs with the partitions that each one needs. `future-l1 demo` runs it in process.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import dagster as dg

from assets.benchmarks.assets import (
    FUTURE_ANSWERS,
    FUTURE_ITEMS,
    FUTURE_REPORT,
    SEED_ANSWERS,
    SEED_ITEMS,
    SEED_REPORT,
    TWIFF_ANSWERS,
    TWIFF_ITEMS,
    TWIFF_REPORT,
)
from assets.benchmarks.latents import LATENT_RETRIEVAL
from assets.benchmarks.necessity import INTERVENED, NECESSITY
from assets.checkpoints.assets import BASE, RL, RL_PROGRAM, SFT, SFT_PROGRAM
from assets.checkpoints.current_sets import trained_on_current_sets
from assets.curation.assets import ANSWERS, CURATED, RL_SETS, SFT_SETS
from assets.curation.scored import GAIN
from assets.curation.set_assets import DATASET_HUB
from assets.framework.metadata import COMPARISON
from assets.framework.partitions import key_of, ranges
from assets.model_hub import MODEL_HUB
from assets.toyworld.assets import SOURCE as TOYWORLD
from assets.trajectories.assets import CLIPS, SOURCE, TRAJECTORIES
from pipelines.profile import Profile

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition


@dataclass(frozen=True)
class Stage:
    """One job: its name, the assets that it makes, a sentence, and checks of other assets that it executes.

    The jobs of the plan are numbered in its order, in which the UI then lists them.
    """

    job: str
    assets: tuple[str, ...]
    description: str
    checks: tuple[dg.AssetCheckKey, ...] = ()


WRITE_SOURCE = Stage("00_write_source", (TOYWORLD,), "Writes the toy world's clips, shards and benchmarks")
LIST_SOURCE = Stage("01_list_source", (SOURCE,), "Lists the source's shards, which become partitions")
PREPARE = Stage(
    "02_prepare", (BASE, FUTURE_ITEMS, TWIFF_ITEMS), "Resolves the base model, and reads the benchmarks' items"
)
INGEST = Stage("03_ingest", (TRAJECTORIES, CLIPS), "Validates the rows of shards, and probes their clips")
SELECT = Stage("05_select", (CURATED, SFT_SETS, RL_SETS), "Selects rows by visual gain, and samples the training sets")
TRAIN_SFT = Stage("06_train_sft", (SFT,), "Trains SFT recipes, each from the base model")
TRAIN_RL = Stage("07_train_rl", (RL,), "Trains RL recipes, each from its SFT checkpoint")
EVALUATE = Stage(
    "08_evaluate",
    (FUTURE_ANSWERS, TWIFF_ANSWERS, FUTURE_REPORT, TWIFF_REPORT),
    "Lets models answer the benchmarks, and scores their answers",
)
INTERVENE = Stage(
    "09_intervene",
    (LATENT_RETRIEVAL, INTERVENED, NECESSITY),
    "Examines models' latents: the frames that they resemble, and whether answers need them",
)
COMPARE = Stage("10_compare", (COMPARISON,), "Puts the reports of all models on one page")
PUBLISH = Stage("publish", (DATASET_HUB,), "Pushes Future-L1-50K to the dataset hub")
PUBLISH_MODELS = Stage("publish_models", (MODEL_HUB,), "Pushes models' checkpoints to the model hub")
RECURATE = "recurate"


def prepare(profile: Profile) -> Stage:
    return replace(PREPARE, assets=(*PREPARE.assets, SEED_ITEMS)) if profile.source.seedbench else PREPARE


def evaluate(profile: Profile) -> Stage:
    seedbench = (SEED_ANSWERS, SEED_REPORT) if profile.source.seedbench else ()
    return replace(EVALUATE, assets=(*EVALUATE.assets, *seedbench))


def score(profile: Profile) -> Stage:
    """Visual gain, from answers or from the counts that the source brings."""
    if profile.curation.use_source_counts:
        return Stage("04_score", (GAIN,), "Takes the visual gain from the source's counts")
    return Stage("04_score", (ANSWERS, GAIN), "Answers rows with and without the hint, and judges what the hint gains")


def recurate(profile: Profile) -> Stage:
    """Everything from a shard to the sets in one run, for the schedule and the sensor."""
    made = (*INGEST.assets, *score(profile).assets, *SELECT.assets)
    checks = tuple(dg.AssetCheckKey(key_of(key), trained_on_current_sets.name) for key in (SFT, RL, COMPARISON))
    return Stage(RECURATE, made, "Curates new and changed shards, from their rows to the training sets", checks)


@dataclass(frozen=True)
class Step:
    """One run of the plan: a stage's job, on these partitions or on all `shards`; `only` some of its assets."""

    stage: Stage
    partitions: tuple[str, ...] = ()
    shards: bool = False
    only: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        """The stage's sentence, with the recipes that are trained."""
        names = f" ({', '.join(self.partitions)})" if self.stage in (TRAIN_SFT, TRAIN_RL) else ""
        return self.stage.description + names


def stages(profile: Profile) -> list[Stage]:
    """The stages that this profile has."""
    return [
        *([WRITE_SOURCE] if profile.toyworld else []),
        *(LIST_SOURCE, prepare(profile), INGEST, score(profile), SELECT, recurate(profile)),
        *([PUBLISH] if profile.hub.dataset else []),
        *(TRAIN_SFT, TRAIN_RL, evaluate(profile), INTERVENE, COMPARE),
        *([PUBLISH_MODELS] if profile.hub.models else []),
    ]


def plan(profile: Profile) -> list[Step]:
    """Everything in order."""
    checkpoints, max_parallel = profile.checkpoints, profile.launch.max_parallel
    sft, rl, examined = checkpoints.sft, tuple(checkpoints.rl), profile.benchmarks.necessity.models
    return [
        *([Step(WRITE_SOURCE)] if profile.toyworld else []),
        Step(LIST_SOURCE),
        Step(prepare(profile)),
        Step(INGEST, shards=True),
        Step(score(profile), shards=True),
        Step(SELECT),
        *(Step(TRAIN_SFT, names) for names in ranges(sft, sft, max_parallel.get(SFT_PROGRAM, 1))),
        *(Step(TRAIN_RL, names) for names in ranges(rl, rl, max_parallel.get(RL_PROGRAM, 1))),
        Step(evaluate(profile), checkpoints.models),
        *([Step(INTERVENE, tuple(name for name in checkpoints.models if name in examined))] if examined else []),
        Step(COMPARE),
    ]


def build_jobs(profile: Profile) -> "list[UnresolvedAssetJobDefinition]":
    """One asset job per stage; asset checks run with the assets that they check."""
    return [
        dg.define_asset_job(
            stage.job,
            dg.AssetSelection.assets(*(key_of(key) for key in stage.assets)) | dg.AssetSelection.checks(*stage.checks),
            description=f"{stage.description}.",
        )
        for stage in stages(profile)
    ]
