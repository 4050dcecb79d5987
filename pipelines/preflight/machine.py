"""Disk, memory and GPUs of this machine, beside what `future-l1 estimate` says that the profile needs.

Nodes of a cluster are not looked at.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import psutil

from assets.curation.estimate import Quantity, brief, estimate
from assets.launching.local import LocalSettings
from assets.trajectories.locations import any_remote
from assets.trajectories.shards import SourceFile
from assets.trajectories.sources import LocalSource, Source, count_rows
from pipelines.estimate.costs import ProfileEstimate, estimate_profile
from pipelines.estimate.inputs import curation_assumptions, source_rows, training_runs
from pipelines.preflight.sources import source_files
from pipelines.profile import PROGRAMS, Profile
from training.data.json_rows import json_rows
from training.estimate.devices import CPU, Device, device_of
from training.estimate.memory import GIB
from training.estimate.shape import model_shape
from training.runtime.devices import check_enough, memory_gib, visible

CLIPS = "clips"
"""The estimate's title of the clips' disk."""
COUNTING_SECONDS = 15.0
COUNTED_JSON_BYTES = 2**28
"""A larger file of JSON, which takes longer to read than the check may, has rows of the size of its first."""
SAMPLED_ROWS = 1000


def disk_problems(profile: Profile) -> Iterator[str]:
    """A home that cannot be written, and disk that does not suffice for what it does not yet hold."""
    home = profile.home
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        yield f"{existing} may not be written: choose another home (FUTURE_L1_HOME)"
    try:
        rows = _rows(profile)
    except ValueError:  # no file can be read, which is another check's problem
        return
    if (result := _estimate(profile, CPU, rows)) is None:
        return
    parts = {title: size for title, size in result.disk.items() if title != CLIPS or any_remote(*profile.source.clips)}
    needed, held, free = sum(parts.values()), _bytes_in(home), shutil.disk_usage(existing).free
    if needed > held + free:
        titles = ", ".join(f"{title} {brief(size, 'B')}" for title, size in parts.items())
        yield (f"{home} may come to hold {brief(needed, 'B')} ({titles}); it holds {brief(held, 'B')}, and "
               f"{brief(free, 'B')} are free: make room, or take a home on a larger disk (FUTURE_L1_HOME)")  # fmt: skip


def memory_problems(profile: Profile) -> Iterator[str]:
    """Memory of this machine that does not suffice for the processes of a training."""
    if _is_elsewhere(profile) or profile.device == "cpu" or (result := _estimate(profile, CPU)) is None:
        return
    there = psutil.virtual_memory().total / GIB
    if result.host_gib[0] > there:
        yield (f"the processes of a training need {result.host_gib[0]:.0f} GiB of host memory or more, and this "
               f"machine has {there:.0f}: take a larger one, or fewer processes (launch.num_processes)")  # fmt: skip


def gpu_problems(profile: Profile) -> Iterator[str]:
    """Too few GPUs for a program, or GPUs with too little memory for a training."""
    if _is_elsewhere(profile) or profile.device == "cpu":
        return
    backend = profile.launch.backend
    names = (isinstance(backend, LocalSettings) and backend.devices) or visible()
    if not names and profile.device == "auto":
        return
    check_enough(names, max(profile.launch.num_processes.get(program, 1) for program in PROGRAMS))
    sizes = memory_gib()
    if least := min((sizes[name] for name in names if name in sizes), default=None):
        result = _estimate(profile, device_of(f"{least:.1f}"))
        yield from result.warnings if result else ()


def _is_elsewhere(profile: Profile) -> bool:
    return not isinstance(profile.launch.backend, LocalSettings)


def _estimate(profile: Profile, device: Device, rows: Quantity | None = None) -> ProfileEstimate | None:
    """The estimate; None without a model to estimate from, which is another check's problem."""
    try:
        model, source = model_shape(profile.base)
    except ValueError:
        return None
    curation = estimate(
        rows or source_rows(profile), profile.curation.rule, curation_assumptions(profile, model, device, None)
    )
    return estimate_profile(profile, curation, training_runs(profile, model, None, None), device, source)


def _rows(profile: Profile) -> Quantity | None:
    """The rows of the source: counted for COUNTING_SECONDS, the rest by the files' bytes.

    None, for the estimate's own number, where counting would be a download.  Raises ValueError where none is readable.
    """
    if profile.toyworld:
        return None
    source, files = source_files(profile.source)
    if not isinstance(source, LocalSource) and not all(file.path.endswith(".parquet") for file in files):
        return None
    rows, size = 0.0, 0
    deadline = time.monotonic() + COUNTING_SECONDS
    with TemporaryDirectory() as scratch:
        for file in files:
            with suppress(ValueError):
                rows, size = rows + _rows_of(source, file, Path(scratch)), size + file.bytes
            if time.monotonic() > deadline:
                break
    if not rows:
        raise ValueError(f"no file in {profile.source.trajectories} has rows that can be counted")
    return Quantity(value=rows * max(1.0, sum(file.bytes for file in files) / max(1, size)), source="counted")


def _rows_of(source: Source, file: SourceFile, scratch: Path) -> float:
    path = Path(file.path)
    if file.bytes <= COUNTED_JSON_BYTES or path.suffix not in (".json", ".jsonl"):
        return count_rows(source, file, scratch)
    rows = (row for _, row in islice(json_rows(path), SAMPLED_ROWS) if isinstance(row, dict))
    return file.bytes / mean(len(json.dumps(row, ensure_ascii=False)) for row in rows)


def _bytes_in(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a run beside this one deletes some
            size += 0 if path.is_dir() else path.lstat().st_size
    return size
