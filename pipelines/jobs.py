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
    """One job: its name, the assets that it makes, a description, and checks of other assets that it executes."""

    job: str
    assets: tuple[str, ...]
    description: str
    checks: tuple[dg.AssetCheckKey, ...] = ()


WRITE_SOURCE = Stage("write_source", (TOYWORLD,), "writing the toy world's clips, shards and benchmarks")
LIST_SOURCE = Stage("list_source", (SOURCE,), "listing the source's shards")
PREPARE = Stage("prepare", (BASE, FUTURE_ITEMS, TWIFF_ITEMS), "resolving the base model and reading the benchmarks")
INGEST = Stage("ingest", (TRAJECTORIES, CLIPS), "validating rows and probing clips")
SELECT = Stage("select", (CURATED, SFT_SETS, RL_SETS), "selecting by visual gain, and sampling the training sets")
PUBLISH = Stage("publish", (DATASET_HUB,), "pushing Future-L1-50K to the hub")
PUBLISH_MODELS = Stage("publish_models", (MODEL_HUB,), "pushing checkpoints to the hub")
TRAIN_SFT = Stage("train_sft", (SFT,), "SFT")
TRAIN_RL = Stage("train_rl", (RL,), "RL")
EVALUATE = Stage(
    "evaluate",
    (FUTURE_ANSWERS, TWIFF_ANSWERS, FUTURE_REPORT, TWIFF_REPORT),
    "answering and scoring the benchmarks",
)
INTERVENE = Stage(
    "intervene",
    (LATENT_RETRIEVAL, INTERVENED, NECESSITY),
    "future-frame retrieval by latents, and latent necessity",
)
COMPARE = Stage("compare", (COMPARISON,), "comparing all models")
RECURATE = "recurate"


def prepare(profile: Profile) -> Stage:
    return replace(PREPARE, assets=(*PREPARE.assets, SEED_ITEMS)) if profile.source.seedbench else PREPARE


def evaluate(profile: Profile) -> Stage:
    seedbench = (SEED_ANSWERS, SEED_REPORT) if profile.source.seedbench else ()
    return replace(EVALUATE, assets=(*EVALUATE.assets, *seedbench))


def score(profile: Profile) -> Stage:
    """Visual gain, from answers or from the counts that the source brings."""
    if profile.curation.use_source_counts:
        return Stage("score", (GAIN,), "visual gain from the source's counts")
    return Stage("score", (ANSWERS, GAIN), "answering with and without the hint, and judging")


def recurate(profile: Profile) -> Stage:
    """Everything from a shard to the sets in one run, for the schedule and the sensor."""
    made = (*INGEST.assets, *score(profile).assets, *SELECT.assets)
    checks = tuple(dg.AssetCheckKey(key_of(key), trained_on_current_sets.name) for key in (SFT, RL, COMPARISON))
    return Stage(RECURATE, made, "curating again from new and changed shards", checks)


@dataclass(frozen=True)
class Step:
    """One run of the plan: a stage's job, on these partitions or on all `shards`; `only` some of its assets."""

    stage: Stage
    partitions: tuple[str, ...] = ()
    shards: bool = False
    only: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        """The stage's description, with the recipes that are trained."""
        is_training = self.stage in (TRAIN_SFT, TRAIN_RL)
        return f"{self.stage.description} {', '.join(self.partitions)}" if is_training else self.stage.description


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
            description=stage.description[0].upper() + stage.description[1:],
        )
        for stage in stages(profile)
    ]
