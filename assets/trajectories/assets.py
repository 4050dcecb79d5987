"""`twiff/source`, `twiff/trajectories` and `twiff/clips`: what the source holds, and what of it can be used."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from assets.launcher import Progress
from assets.partitions import SHARDS, SHARDS_PER_RUN
from assets.settings import SourceSettings
from assets.store import AssetStore, batch_result, code_of
from assets.trajectories.clips import resolve_clips
from assets.trajectories.validate import pull_shard
from training.artifacts import Artifact, digest, file_digest

SOURCE = "twiff/source"
TRAJECTORIES = "twiff/trajectories"
CLIPS = "twiff/clips"

ROWS = "trajectories.parquet"
CLIP_TABLE = "clips.parquet"
QUARANTINE = "quarantine.parquet"

TRAJECTORIES_CODE = code_of("assets/trajectories/validate.py", "training/data/trajectory.py", "training/data/text.py")
CLIPS_CODE = code_of("assets/trajectories/clips.py", "training/data/video.py")


def shard_files(settings: SourceSettings) -> dict[str, Path]:
    """The source's shards by name; a failure that names the folder if there is none."""
    folder = settings.trajectories
    files = {path.stem: path for path in sorted(folder.glob("*.parquet"))} if folder.is_dir() else {}
    if not files:
        raise dg.Failure(
            f"no TwiFF shard (*.parquet) in {folder}: download them, or materialise toyworld/source in the demo",
            allow_retries=False,
        )
    return files


def source_assets(settings: SourceSettings, upstream: list[dg.AssetKey]) -> list[dg.AssetsDefinition]:
    @dg.multi_observable_source_asset(
        specs=[
            dg.AssetSpec(
                dg.AssetKey(SOURCE.split("/")),
                deps=upstream,
                group_name="trajectories",
                kinds={"parquet"},
                owners=["team:data"],
                description="The TwiFF shards as they lie in the source; observing them registers new shards.",
            )
        ]
    )
    def twiff_source(context: dg.AssetExecutionContext) -> Iterator[dg.ObserveResult]:
        files = shard_files(settings)
        for vanished in set(context.instance.get_dynamic_partitions(str(SHARDS.name))) - set(files):
            context.instance.delete_dynamic_partition(str(SHARDS.name), vanished)
        context.instance.add_dynamic_partitions(str(SHARDS.name), list(files))
        shards = {name: file_digest(path)[:16] for name, path in files.items()}
        yield dg.ObserveResult(
            asset_key=dg.AssetKey(SOURCE.split("/")),
            data_version=dg.DataVersion(digest(shards)),
            metadata={
                "folder": dg.MetadataValue.path(settings.trajectories.resolve()),
                "shards": len(shards),
                "bytes": sum(path.stat().st_size for path in files.values()),
                "versions": dg.MetadataValue.json(shards),
            },
        )

    @dg.asset(
        key=dg.AssetKey(TRAJECTORIES.split("/")),
        deps=[dg.AssetKey(SOURCE.split("/"))],
        partitions_def=SHARDS,
        backfill_policy=dg.BackfillPolicy.multi_run(SHARDS_PER_RUN),
        group_name="trajectories",
        kinds={"polars", "parquet"},
        owners=["team:data"],
        code_version=TRAJECTORIES_CODE,
        description="The validated rows of one TwiFF shard; every other row is in its quarantine table with a reason.",
    )
    def twiff_trajectories(
        context: dg.AssetExecutionContext,
        store: dg.ResourceParam[AssetStore],
        progress: dg.ResourceParam[Progress],
    ) -> dg.MaterializeResult[None]:
        files = shard_files(settings)

        def pull(workspace: Path, path: Path) -> dict[str, Any]:
            rows, quarantine = pull_shard(path)
            rows.write_parquet(workspace / ROWS)
            quarantine.write_parquet(workspace / QUARANTINE)
            return {"rows": rows.height, "quarantined": quarantine.height, "reasons": _reasons(quarantine)}

        pulled = {}
        for done, shard in enumerate(context.partition_keys):
            progress(done, len(context.partition_keys), "shards pulled")
            path = files[shard]
            work = store.work(TRAJECTORIES, {SOURCE: file_digest(path)}, {"shard": path.name}, TRAJECTORIES_CODE, shard)
            pulled[shard] = work.do(partial(pull, path=path))
        return batch_result(context, TRAJECTORIES, pulled, ROWS)

    @dg.asset(
        key=dg.AssetKey(CLIPS.split("/")),
        deps=[dg.AssetKey(TRAJECTORIES.split("/"))],
        partitions_def=SHARDS,
        backfill_policy=dg.BackfillPolicy.multi_run(SHARDS_PER_RUN),
        group_name="trajectories",
        kinds={"decord", "parquet"},
        owners=["team:data"],
        code_version=CLIPS_CODE,
        description="Each clip of a shard: path, displayed frames, hash, the reader that works, or why it is unusable.",
    )
    def twiff_clips(
        context: dg.AssetExecutionContext,
        store: dg.ResourceParam[AssetStore],
        progress: dg.ResourceParam[Progress],
    ) -> dg.MaterializeResult[None]:
        roots = [root.resolve() for root in settings.clips]

        def resolve(workspace: Path, trajectories: Artifact) -> dict[str, Any]:
            clips, quarantine = resolve_clips(
                pl.read_parquet(trajectories.file(ROWS)),
                roots,
                lambda done, total: progress(done, total, "clips probed"),
            )
            clips.write_parquet(workspace / CLIP_TABLE)
            quarantine.write_parquet(workspace / QUARANTINE)
            usable = clips.filter(pl.col("reason").is_null())
            return {
                "clips": clips.height,
                "usable": usable.height,
                "readers": dict(usable["reader"].value_counts(sort=True).iter_rows()),
                "rows_without_clip": quarantine.height,
                "reasons": _reasons(quarantine),
            }

        resolved = {}
        for shard in context.partition_keys:
            rows = store.current(TRAJECTORIES, shard)
            work = store.work(CLIPS, {TRAJECTORIES: rows}, {"roots": [str(root) for root in roots]}, CLIPS_CODE, shard)
            resolved[shard] = work.do(partial(resolve, trajectories=rows))
        return batch_result(context, CLIPS, resolved, CLIP_TABLE)

    return [twiff_source, twiff_trajectories, twiff_clips]


def _reasons(quarantine: pl.DataFrame) -> dict[str, int]:
    return dict(quarantine["reason"].value_counts(sort=True).iter_rows())
