"""`toyworld/source`: the demo's source, written as the real ones are."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from assets.framework.code import code_of
from assets.framework.define import Asset, asset
from assets.framework.metadata import result_of
from assets.framework.store import AssetStore
from assets.launching.launcher import Progress
from assets.toyworld.source import REPORT, SourceSizes, write_source

SOURCE = "toyworld/source"
CODE = code_of("assets.toyworld.source")


def toyworld_assets(sizes: SourceSizes, seed: int) -> list[dg.AssetsDefinition]:
    declared = Asset(
        SOURCE,
        "Clips, TwiFF-shaped shards and both benchmarks of the marble ring, drawn from the profile's seed.",
        kinds=("python", "parquet", "mp4"),
        code_version=CODE,
        links={"report": REPORT, "clips": "clips"},
    )

    @asset(declared)
    def toyworld_source(
        store: dg.ResourceParam[AssetStore], progress: dg.ResourceParam[Progress]
    ) -> dg.MaterializeResult[None]:
        def write(workspace: Path) -> dict[str, Any]:
            report = write_source(workspace, seed, sizes, lambda done, total: progress(done, total, "clips"))
            return asdict(report)

        work = store.work(SOURCE, {}, {"seed": seed, "sizes": asdict(sizes)}, CODE)
        return result_of(store, declared, work.do(write))

    return [toyworld_source]
