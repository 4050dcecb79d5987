"""The files that a profile reads: whether they are there, in the layout that is read.

Of each a sample is read.  The demo's own world is written by its plan, so there is nothing to look at before.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from assets.benchmarks.assets import benchmark_runs
from assets.trajectories.locations import local_path
from assets.trajectories.settings import SourceSettings
from assets.trajectories.shards import SourceFile
from assets.trajectories.sources import LocalSource, Source, filesystem, open_source
from assets.trajectories.validate import Batch, read_shard, shard_columns
from pipelines.profile import Profile
from training.data.clip_names import check_clip_name, locate_clip, resolve_clip
from training.data.rejection import RejectedRow

FILES = 8
"""Files of trajectories that are opened."""
CLIPS = 40
"""Clips that are looked up."""
ITEMS = 4
"""Items of a benchmark that are read."""
LAYOUTS = "docs/inputs.md has the layouts"


def trajectory_problems(profile: Profile) -> Iterator[str]:
    """Files that cannot be read, and those with too many rows that cannot be used."""
    if profile.toyworld:
        return
    try:
        source, files = _sampled_files(profile.source)
    except ValueError as error:
        yield f"{error}: source.trajectories names the folder, URL or repository of the shards"
        return
    for file in files:
        try:
            batch = _first_rows(source, file)
        except ValueError as error:
            yield f"{error}; {LAYOUTS}, and this file would be left out"
            continue
        if batch is None:
            continue
        rows, rejected = batch
        if rejected.height > profile.source.quarantine_limit * (rows.height + rejected.height):
            reasons = ", ".join(f"{n} x {reason}" for reason, n in Counter(rejected["reason"]).most_common(3))
            yield (f"{file.path}: of the first {rows.height + rejected.height} rows {rejected.height} cannot be used "
                   f"({reasons}; the first: {rejected['detail'][0]}); {LAYOUTS}")  # fmt: skip


def clip_problems(profile: Profile) -> Iterator[str]:
    """Folders of clips that are missing, and clips that trajectories name and no folder has."""
    if profile.toyworld:
        return
    settings = profile.source
    folders = [path for root in settings.clips if (path := local_path(root)) is not None]
    for folder in folders:
        if not folder.is_dir():
            yield f"there is no folder {folder}: source.clips names the folders, or URLs, of the clips"
    rows = _rows_of_first_file(settings)
    if rows is None or not all(folder.is_dir() for folder in folders):
        return
    lookups = [_lookup(root) for root in settings.clips]
    missing = [row["video"] for row in rows.head(CLIPS).iter_rows(named=True) if not _has_clip(row, lookups)]
    looked_up = min(CLIPS, rows.height)
    if len(missing) > settings.quarantine_limit * looked_up:
        yield (f"of the clips of the first {looked_up} rows {len(missing)} are not in {', '.join(settings.clips)}, as "
               f"{missing[0]!r}: complete the folder, or name another in source.clips")  # fmt: skip


def benchmark_problems(profile: Profile) -> Iterator[str]:
    """Benchmarks whose folder is missing or holds something else, and those whose first items cannot be used."""
    for run in () if profile.toyworld else benchmark_runs(profile.benchmarks, profile.source):
        name = run.benchmark.name
        try:
            items = list(islice(run.benchmark.rows(run.folder), ITEMS))
        except (ValueError, OSError) as error:
            yield f"{run.title}: {error} (download it, and name its folder as source.{name}; {LAYOUTS})"
            continue
        if problems := [item["problem"] for item in items if item.get("problem")]:
            yield (f"{run.title}: of the first {len(items)} items {len(problems)} cannot be used ({problems[0]}); is "
                   f"{run.folder} complete, with its clips? {LAYOUTS}")  # fmt: skip
        if not items:
            yield f"{run.title}: {run.folder} holds no item: download it again"


def multiple_choice_problems(profile: Profile) -> Iterator[str]:
    """Missing files and folders of V1-33K."""
    if settings := profile.curation.multiple_choice_set:
        for field, paths, exists in (("files", settings.files, Path.is_file), ("videos", settings.videos, Path.is_dir)):
            for path in paths:
                if not exists(path):
                    yield f"there is no {path}: curation.multiple_choice_set.{field} names V1-33K's {field}"


def source_files(settings: SourceSettings) -> tuple[Source, list[SourceFile]]:
    """The source, and its files.  Raises ValueError where it has none, or cannot be listed."""
    try:
        source = open_source(settings.trajectories)
        return source, list(source.listing().files.values())
    except ValueError:
        raise
    except Exception as error:  # of the hub's client, and of fsspec's file systems: each has errors of its own
        raise ValueError(
            f"{settings.trajectories} cannot be listed ({type(error).__name__}: {error}): is the network up?"
        ) from error


def _sampled_files(settings: SourceSettings) -> tuple[Source, list[SourceFile]]:
    """The source, and FILES of its files, evenly spaced.  Raises ValueError as `source_files` does."""
    source, files = source_files(settings)
    return source, files[:: -(-len(files) // FILES)]


def _first_rows(source: Source, file: SourceFile) -> Batch | None:
    """The first rows of a file, and of them those that cannot be used; None where that would be a download.

    Raises ValueError for a file that is no shard.  Of remote parquet the columns are looked at alone.
    """
    if isinstance(source, LocalSource):
        return next(read_shard(Path(file.path), file.name, is_last=False), None)
    if file.path.endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        with source.tail(file) as tail:
            try:
                schema = pq.read_schema(tail)
            except pa.ArrowException as error:
                raise ValueError(f"{file.path} cannot be read as parquet: {error}") from error
            shard_columns(Path(file.path), schema)
    return None


def _rows_of_first_file(settings: SourceSettings) -> pl.DataFrame | None:
    """The first usable rows of the source; None where there are none, which is another check's problem."""
    try:
        source, files = _sampled_files(settings)
        batch = _first_rows(source, files[0])
    except ValueError:
        return None
    return batch[0] if batch and batch[0].height else None


def _lookup(root: str) -> Callable[[str], Path]:
    """A clip root's file of a clip's name, as `assets.trajectories.clips.open_root`, but nothing is downloaded."""
    if (path := local_path(root)) is not None:
        return partial(resolve_clip, roots=[path])
    fs, top = filesystem(root)

    def look_up(name: str) -> Path:
        check_clip_name(name)
        if ".." in Path(name).parts or not fs.isfile(f"{top}/{name}"):
            raise RejectedRow("missing clip", name)
        return Path(name)

    return look_up


def _has_clip(row: Mapping[str, Any], lookups: list[Callable[[str], Path]]) -> bool:
    times = {name: row[name] for name in ("start", "end")} if row["start"] and row["end"] else None
    for look_up in lookups:
        try:
            locate_clip(row["video"], times, look_up)
            return True
        except RejectedRow:
            continue
    return False
