"""The demo's data set in `datasets`, in an environment without ours: an artifact's folder, that of `curate --out`, and
what was pushed to a hub, each loaded, and joined with the layout of the public release."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from assets.curation.assets import CURATED
from assets.curation.dataset_card import CURATED_TABLE
from assets.curation.set_assets import dataset_hub_asset
from tests.assets.curation.public_release import write_release
from tests.hub import let_push, serve
from tests.interop.demo import Demo
from tests.interop.table import Check
from training.grading import toy_judge
from training.storage.parquet import read_parquet

PROGRAM = "datasets"
LOAD = """
import sys, datasets
name, release, rows = sys.argv[1:]
ours = datasets.load_dataset(name, split="train")
ours.to_json(rows)
release = datasets.load_dataset("parquet", data_files=release, split="train")
print(datasets.concatenate_datasets([release, ours.select_columns(release.column_names)]).num_rows)
"""
VARIABLES = {"HF_HUB_DISABLE_XET": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
RELEASE_ROWS = 10
REPOSITORY, TOKEN, LICENSE = "lab/future-l1-50k", "hf_writes", "cc-by-4.0"
QUIET = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}
CURATED_ROWS = 200
"""Rows of the demo's source that `curate` scores."""


def checks(demo: Demo, work: Path) -> Iterator[Check]:
    artifact = demo.store.current(CURATED).path
    yield from _loaded(demo, work, "an artifact's folder", str(artifact), artifact)
    curated = curate(demo, work, CURATED_ROWS, "--base", demo.profile.base)
    yield from _loaded(demo, work, "the folder of curate --out", str(curated), curated)
    with serve(work / "hub") as hub, pytest.MonkeyPatch.context() as patch:
        let_push(hub, TOKEN, patch)
        dg.materialize([dataset_hub_asset(REPOSITORY, LICENSE)], resources={"store": demo.store}, run_config=QUIET)
        yield from _loaded(demo, work, "a pushed repository", REPOSITORY, artifact)


def _loaded(demo: Demo, work: Path, what: str, name: str, folder: Path) -> Iterator[Check]:
    """Loads a data set by its name; its rows are those of the table in `folder`."""
    release, rows = work / "release.parquet", work / "rows.jsonl"
    write_release(release, RELEASE_ROWS)
    command = [demo.python, "-c", LOAD, name, release, rows]
    variables = os.environ | VARIABLES | {"HF_HOME": str(work / "hf")}
    printed = subprocess.run(command, cwd=work, env=variables, check=True, stdout=subprocess.PIPE, text=True)
    loaded = [json.loads(line) for line in rows.read_text().splitlines()]
    table = read_parquet(folder / CURATED_TABLE).to_dicts()
    yield Check(f"{what}: rows", PROGRAM, sum(map(dict.__eq__, loaded, table)), max(len(loaded), len(table)))
    yield Check(f"{what}: with the public layout", PROGRAM, int(printed.stdout), RELEASE_ROWS + len(table))


def curate(demo: Demo, work: Path, rows: int, *options: str) -> Path:
    """`future-l1 curate` on so many rows of the demo's source; the folder.  `options` name the model that answers."""
    source, out = demo.profile.source, work / "curated"
    shard = sorted(Path(source.trajectories).glob("*.parquet"))[0]
    (work / "shards").mkdir(parents=True)
    read_parquet(shard).head(rows).write_parquet(work / "shards" / "rows.parquet")
    with toy_judge.serve() as judge:
        command = [sys.executable, "-m", "pipelines", "curate", "--trajectories", work / "shards",
                   *(f"--clips={clips}" for clips in source.clips), *options, "--judge", judge,
                   "--judge-model", toy_judge.MODEL, "--out", out]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return out
