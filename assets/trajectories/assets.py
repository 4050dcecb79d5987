"""`inputs/twiff_source`, `trajectories/twiff_rows` and `trajectories/twiff_clips`: the source's shards, validated."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import dagster as dg

from assets.framework.code import code_of
from assets.framework.define import Asset, asset
from assets.framework.metadata import batch_result
from assets.framework.partitions import SHARD_PARTITIONING, SHARDS
from assets.framework.retries import retry_on_outage
from assets.framework.store import AssetStore, StoreParam
from assets.launching.launcher import ProgressParam
from assets.trajectories.clips import ClipTable, write_clips
from assets.trajectories.locations import any_remote, hub_repository, local_path
from assets.trajectories.settings import SourceSettings
from assets.trajectories.shards import Shard
from assets.trajectories.sources import Source, source_shards
from assets.trajectories.validate import PulledTable, write_shard
from training.storage.artifacts import CURRENT, Artifact
from training.storage.hashing import digest

SOURCE = "inputs/twiff_source"
TRAJECTORIES = "trajectories/twiff_rows"
CLIPS = "trajectories/twiff_clips"

ROWS = "trajectories.parquet"
CLIP_TABLE = "clips.parquet"
QUARANTINE = "quarantine.parquet"

SOURCE_CODE = code_of("assets.trajectories.sources")
TRAJECTORIES_CODE = code_of("assets.trajectories.validate")
CLIPS_CODE = code_of("assets.trajectories.clips")


def list_source(settings: SourceSettings, store: AssetStore) -> tuple[Source, str, dict[str, Shard]]:
    """`source_shards`; a failure that says what to do if there is none."""
    try:
        return source_shards(settings, store.scratch)
    except ValueError as error:
        raise dg.Failure(f"{error} (in the demo, materialise inputs/toyworld_source)", allow_retries=False) from error


def follow_source(instance: dg.DagsterInstance, store: AssetStore, shards: Sequence[str]) -> None:
    """Makes the partitions those of the source's shards, and the artifacts of shards that left no longer current.

    Their rows are not selected any more, and rows of other shards do not count as their repeats. The artifacts stay in
    the store, and are current again if the shard comes back.
    """
    removed = set(instance.get_dynamic_partitions(str(SHARDS.name))).difference(shards)
    for name, artifact in store.everything().items() if removed else ():
        stage, _, rest = name.partition("/")
        if stage in ("trajectories", "curation") and rest.partition("/")[2] in removed:
            (artifact.path.parent / CURRENT).unlink(missing_ok=True)  # another process may follow the source, too
    for name in removed:  # last: whoever is ended before starts over from the partitions
        instance.delete_dynamic_partition(str(SHARDS.name), name)
    instance.add_dynamic_partitions(str(SHARDS.name), shards)


def source_assets(settings: SourceSettings, upstream: tuple[str, ...]) -> list[dg.AssetsDefinition]:
    return [_source(settings, upstream), _trajectories(settings), _clips(settings)]


def _source(settings: SourceSettings, upstream: tuple[str, ...]) -> dg.AssetsDefinition:
    declared = Asset(
        SOURCE,
        "The list of the source's TwiFF shards; materialising it registers new shards and removes those that left.",
        kinds=("parquet",),
        code_version=SOURCE_CODE,
        deps=upstream,
        retry_policy=retry_on_outage() if any_remote(settings.trajectories) else None,
    )

    @asset(declared)
    def twiff_source(context: dg.AssetExecutionContext, store: StoreParam) -> dg.MaterializeResult[None]:
        source, revision, shards = list_source(settings, store)
        follow_source(context.instance, store, list(shards))
        files = {shard.file for shard in shards.values()}
        versions = {name: shard.version(source.version(shard.file)) for name, shard in shards.items()}
        return dg.MaterializeResult(
            data_version=dg.DataVersion(digest(versions)),
            metadata={
                "source": settings.trajectories,
                "revision": revision,
                "files": len(files),
                "shards": len(versions),
                "bytes": sum(file.bytes for file in files),
                "versions": dg.MetadataValue.json({name: version[:24] for name, version in versions.items()}),
            },
        )

    return twiff_source


def _trajectories(settings: SourceSettings) -> dg.AssetsDefinition:
    declared = Asset(
        TRAJECTORIES,
        "The validated rows of one TwiFF shard; every other row is in its quarantine table with a reason.",
        kinds=("polars", "parquet"),
        code_version=TRAJECTORIES_CODE,
        deps=(SOURCE,),
        partitions=SHARD_PARTITIONING,
        table=ROWS,
        columns=(PulledTable,),
        retry_policy=retry_on_outage() if any_remote(settings.trajectories) else None,
        links={"quarantine": QUARANTINE},
    )

    @asset(declared)
    def twiff_trajectories(
        context: dg.AssetExecutionContext, store: StoreParam, progress: ProgressParam
    ) -> dg.MaterializeResult[None]:
        source, revision, shards = list_source(settings, store)

        def pull(workspace: Path, shard: Shard) -> dict[str, Any]:
            with source.fetch(shard.file, store.scratch / "shards") as path:
                files = workspace / ROWS, workspace / QUARANTINE
                counts = write_shard(path, shard.name, *files, shard.rows, shard.is_last)
            repository = hub_repository(settings.trajectories)
            return {**counts, "repository": repository, "revision": revision, "stamp": shard.stamp}

        pulled = {}
        for done, name in enumerate(context.partition_keys):
            progress(done, len(context.partition_keys), "shards pulled")
            if (shard := shards.get(name)) is None:
                raise dg.Failure(f"{settings.trajectories} has no shard {name!r} any more", allow_retries=False)
            version = shard.version(source.version(shard.file))
            config = {"shard": PurePosixPath(shard.path).name}
            work = store.work(TRAJECTORIES, {SOURCE: version}, config, TRAJECTORIES_CODE, name)
            pulled[name] = work.do(partial(pull, shard=shard))
        return batch_result(context, store, declared, pulled)

    return twiff_trajectories


def _clips(settings: SourceSettings) -> dg.AssetsDefinition:
    declared = Asset(
        CLIPS,
        "Each clip of a shard: path, displayed frames, hash, how it is read, or why it is unusable.",
        kinds=("pyav", "parquet"),
        code_version=CLIPS_CODE,
        deps=(TRAJECTORIES,),
        partitions=SHARD_PARTITIONING,
        table=CLIP_TABLE,
        columns=(ClipTable,),
        retry_policy=retry_on_outage() if any_remote(*settings.clips) else None,
        links={"quarantine": QUARANTINE},
    )

    @asset(declared)
    def twiff_clips(
        context: dg.AssetExecutionContext, store: StoreParam, progress: ProgressParam
    ) -> dg.MaterializeResult[None]:
        paths = {root: local_path(root) for root in settings.clips}
        roots = [root if (path := paths[root]) is None else str(path.resolve()) for root in settings.clips]

        def resolve(workspace: Path, trajectories: Artifact) -> dict[str, Any]:
            return write_clips(
                trajectories.file(ROWS),
                workspace / CLIP_TABLE,
                workspace / QUARANTINE,
                roots,
                lambda done, total: progress(done, total, "clips probed"),
                store.scratch / "clips",
            )

        resolved = {}
        for shard in context.partition_keys:
            rows = store.current(TRAJECTORIES, shard)
            work = store.work(CLIPS, {TRAJECTORIES: rows}, {"roots": roots}, CLIPS_CODE, shard)
            resolved[shard] = work.do(partial(resolve, trajectories=rows))
        return batch_result(context, store, declared, resolved)

    return twiff_clips
