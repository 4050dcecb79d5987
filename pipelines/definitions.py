"""`build_definitions(profile)`: the one factory behind the UI, the command line and the tests."""

import warnings

import dagster as dg

from assets.benchmarks.assets import benchmark_assets, benchmark_runs
from assets.benchmarks.checks import benchmark_checks
from assets.benchmarks.comparison import comparison_asset
from assets.benchmarks.latents import latent_retrieval_asset
from assets.benchmarks.necessity import necessity_assets
from assets.checkpoints.assets import checkpoint_assets
from assets.checkpoints.checks import checkpoint_checks
from assets.curation.assets import curation_assets
from assets.curation.checks import curation_checks
from assets.curation.set_assets import set_assets
from assets.framework.resources import JudgeAccess, LogProgress
from assets.framework.store import AssetStore
from assets.launching.launcher import Launcher, Progress
from assets.model_hub import model_hub_asset
from assets.toyworld.assets import SOURCE as TOYWORLD
from assets.toyworld.assets import toyworld_assets, toyworld_checks
from assets.trajectories.assets import source_assets
from assets.trajectories.checks import source_checks
from pipelines.alerts import failed_runs
from pipelines.jobs import build_jobs
from pipelines.profile import Profile, profile_from_environment
from pipelines.recuration import new_shards, recurate_weekly
from pipelines.retraining import retrain
from training.runtime.processes import exit_if_parent_died

# Backfill policies are what Dagster calls beta; the pin on dagster answers for them.
warnings.filterwarnings("ignore", category=dg.BetaWarning)

# A run's steps are forks of one process that has imported these: by Dagster's default each step would, for seconds.
# Two are Dagster's own, for its instance; a name that is gone is passed over.
IMPORTED = [__name__, "dagster._core.storage.sqlite_storage", "dagster._daemon.controller"]
FORKS = dg.multiprocess_executor.configured({"start_method": {"forkserver": {"preload_modules": IMPORTED}}}, "forks")


def build_definitions(profile: Profile, progress: Progress | None = None) -> dg.Definitions:
    """Every asset, check, job, schedule and sensor of a profile; `progress` is called by long work."""
    progress = progress or LogProgress()
    checkpoints, seed, device = profile.checkpoints, profile.seed, profile.device
    upstream = (TOYWORLD,) if profile.toyworld else ()
    benchmarks, examined = benchmark_runs(profile.benchmarks, profile.source), profile.benchmarks.necessity.models
    endpoints = profile.generation.endpoint
    max_latents = profile.sft[0].recipe.latent_config.max_latents
    jobs = build_jobs(profile)
    checks = [
        *(toyworld_checks() if profile.toyworld else []),
        *source_checks(profile.source),
        *curation_checks(profile.curation),
        *checkpoint_checks(checkpoints),
        *benchmark_checks(benchmarks, checkpoints, examined),
    ]
    return dg.Definitions(
        assets=[
            *(toyworld_assets(profile.toyworld, seed) if profile.toyworld else []),
            *source_assets(profile.source, upstream),
            *curation_assets(profile.curation, seed, device, profile.base),
            *set_assets(profile.curation, profile.hub, seed, profile.base),
            *checkpoint_assets(
                profile.base,
                {run.recipe.name: run for run in profile.sft},
                {run.recipe.name: run for run in profile.rl},
                checkpoints,
                seed,
                device,
                profile.launch.max_parallel,
                profile.report_to,
                profile.cards,
            ),
            *benchmark_assets(benchmarks, checkpoints, upstream, seed, device, endpoints),
            latent_retrieval_asset(examined, checkpoints, max_latents, seed, device),
            *necessity_assets(profile.benchmarks, checkpoints, seed, device, endpoints),
            comparison_asset(checkpoints, published_data=profile.published_data),
            *(
                [model_hub_asset(profile.hub.models, checkpoints, profile.cards, profile.published_data)]
                if profile.hub.models
                else []
            ),
        ],
        asset_checks=checks,
        executor=FORKS,
        jobs=jobs,
        schedules=[recurate_weekly(profile.source, checks)],
        sensors=[new_shards(profile.source, checks), retrain(profile, jobs), failed_runs()],
        resources={
            "store": AssetStore(profile.home),
            "launcher": Launcher(profile.launch, progress),
            "judge": JudgeAccess(profile.judge, profile.toy_judge, profile.home / "judge"),
            "progress": progress,
        },
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The definitions of the profile that the environment names."""
    exit_if_parent_died()
    return build_definitions(profile_from_environment())
