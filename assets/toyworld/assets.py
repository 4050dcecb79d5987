"""`inputs/toyworld_source`: the demo's source, in the layout of the real sources, and its checks."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from assets.framework.code import code_of
from assets.framework.define import Asset, CheckOutcome, asset, check
from assets.framework.metadata import result_of
from assets.framework.store import AssetStore, StoreParam
from assets.launching.launcher import ProgressParam
from assets.toyworld.source import REPORT, SourceSizes, write_source
from assets.trajectories.shards import SourceFile, cut_into_shards, shard_name

SOURCE = "inputs/toyworld_source"
CODE = code_of("assets.toyworld.source")
GUESSING_LIMIT = 0.60
"""No rule that does not look ahead may come near what the models are meant to learn (reference: .566 at most)."""


def toyworld_assets(sizes: SourceSizes, seed: int) -> list[dg.AssetsDefinition]:
    declared = Asset(
        SOURCE,
        "Clips, TwiFF-shaped shards and both benchmarks of the marble ring, generated from the profile's seed.",
        kinds=("python", "parquet", "mp4"),
        code_version=CODE,
        links={"report": REPORT, "clips": "clips"},
    )

    @asset(declared)
    def toyworld_source(store: StoreParam, progress: ProgressParam) -> dg.MaterializeResult[None]:
        def write(workspace: Path) -> dict[str, Any]:
            return write_source(workspace, seed, sizes, lambda done, total: progress(done, total, "clips"))

        work = store.work(SOURCE, {}, {"seed": seed, "sizes": asdict(sizes)}, CODE)
        return result_of(store, declared, work.do(write))

    return [toyworld_source]


def toyworld_shards(sizes: SourceSizes, rows_per_partition: int) -> list[str]:
    """The names of the shards that the source will have, before it is written."""
    paths = [f"train-{number:05d}-of-{sizes.shards:05d}.parquet" for number in range(sizes.shards)]
    files = [SourceFile(shard_name(path), path, stamp="", bytes=0) for path in paths]
    rows = {file.name: sizes.rows_per_shard for file in files}
    return list(cut_into_shards(files, rows, rows_per_partition, SOURCE))


def toyworld_checks() -> list[dg.AssetChecksDefinition]:
    return [options_do_not_leak.of(SOURCE)]


@check(
    "The four options do not give the answer away: no simple rule gets far on held-out boards.",
    "draw the questions of the toy world from another seed",
    blocking=True,
)
def options_do_not_leak(store: AssetStore, key: str) -> CheckOutcome:
    rules: dict[str, float] = store.current(key).provenance["counts"]["rules"]
    best = max(rules, key=lambda rule: rules[rule])
    return CheckOutcome(
        passed=rules[best] <= GUESSING_LIMIT,
        description=f"the best rule that does not look ahead, {best}, is right in {rules[best]:.1%}; at most "
        f"{GUESSING_LIMIT:.0%} may be",
        metadata={"best_rule": best, "accuracy": rules[best], "limit": GUESSING_LIMIT, "rules": rules},
    )
