"""The demo made small: the same code and stages, fewer rows and steps. Its scores mean nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit

from assets.toyworld.source import SourceSizes
from pipelines.profile import RUNS, Profile, demo


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
    shorter = {"max_steps": steps, "global_batch_size": 8, "save_steps": 2}
    sft = tuple(run.model_copy(update={"recipe": run.recipe.model_copy(update=shorter)}) for run in profile.sft)
    fewer = {"max_steps": 2, "prompts_per_batch": 4, "num_generations": 4, "max_resample_rounds": 1, "save_steps": 1}
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


def smallest_demo(home: Path, steps: int = 2) -> Profile:
    """One shard, few steps of SFT, no RL, few items, answered by one program at a time: all assets that need no RL."""
    profile = reduced_demo(home, steps=steps)
    selection = profile.curation.selection.model_copy(update={"top": 8})
    necessity = profile.benchmarks.necessity.model_copy(update={"models": ("future_l1",), "n": 4})
    return profile.model_copy(
        update={
            "toyworld": SourceSizes(shards=1, rows_per_shard=40, futurebench_per_split=2, twiffbench=4),
            "source": profile.source.model_copy(update={"quarantine_limit": 1.0}),
            "curation": profile.curation.model_copy(update={"selection": selection, "rl_sets": {"twiff": 4}}),
            "rl": (),
            "launch": profile.launch.model_copy(
                update={"max_parallel": {**profile.launch.max_parallel, "evaluation.generate": 1}}
            ),
            "benchmarks": profile.benchmarks.model_copy(update={"necessity": necessity}),
        }
    )


def write_reduced_overlay(path: Path, seed: int = 0, steps: int = 3) -> Path:
    """The reduced demo as a TOML overlay, which FUTURE_L1_PROFILE can name for `future-l1 ui`. Returns `path`."""
    return write_overlay(path, reduced_demo(path.parent, seed, steps))


def write_overlay(path: Path, profile: Profile) -> Path:
    """A variant of the demo as an overlay of it: every field in which they differ. Returns `path`."""
    base = demo(profile.home, profile.seed).model_dump(mode="json")
    wanted = profile.model_dump(mode="json", exclude={"name"})
    for runs in RUNS:  # overlaid by their recipes' names; none are a list
        before, after = ({run["recipe"]["name"]: run for run in one[runs]} for one in (base, wanted))
        if after:
            base[runs], wanted[runs] = before, after
    path.write_text(tomlkit.dumps({"extends": "demo", **_differences(base, wanted)}))
    return path


def _differences(base: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `wanted` that differ from those of `base`."""
    changes: dict[str, Any] = {}
    for name, value in wanted.items():
        before = base.get(name)
        if isinstance(value, Mapping):
            inner = _differences(before if isinstance(before, Mapping) else {}, value)
            changes |= {name: inner} if inner else {}
        elif value != before:
            changes[name] = value
    return changes
