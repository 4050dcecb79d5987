"""The demo made small: the same code and stages, fewer rows and steps. What it learns means nothing."""

from pathlib import Path

from assets.toyworld.source import SourceSizes
from pipelines.profile import Profile, demo


def reduced_demo(home: Path, seed: int = 0, steps: int = 3) -> Profile:
    """Three shards of 60 rows, two answers a condition, a few steps of SFT and RL, 8 items a split."""
    profile = demo(home, seed)
    curation = profile.curation.model_copy(
        update={
            "answers": profile.curation.answers.model_copy(update={"samples": 2}),
            "selection": profile.curation.selection.model_copy(update={"top": 40, "max_p_t": 1, "min_gain": 1}),
            "rl_sets": {"twiff": 40},
        }
    )
    shorter = {"steps": steps, "batch": 8, "save_every": 2}
    sft = tuple(run.model_copy(update={"recipe": run.recipe.model_copy(update=shorter)}) for run in profile.sft)
    fewer = {"steps": 2, "prompts": 4, "group": 4, "dynamic_rounds": 1, "save_every": 1}
    rl = tuple(run.model_copy(update={"recipe": run.recipe.model_copy(update=fewer)}) for run in profile.rl)
    necessity = profile.benchmarks.necessity.model_copy(update={"n": 12})
    return profile.model_copy(
        update={
            "toyworld": SourceSizes(rows_per_shard=60, futurebench_per_split=8, twiffbench=12),
            "source": profile.source.model_copy(update={"quarantine_limit": 0.5}),
            "curation": curation,
            "sft": sft,
            "rl": rl,
            "benchmarks": profile.benchmarks.model_copy(update={"necessity": necessity}),
        }
    )
