"""The real commands in a folder, and with shards, clips and outputs, of any name."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from assets.toyworld.clips import write_batch
from assets.toyworld.source import write_futurebench
from tests.forks import COMMANDS, PROGRAMS, forked
from tests.pipelines.served_shards import Model, judge, write_shards
from tests.processes import output
from tests.served import served
from training.storage.artifacts import MODEL
from training.tiny import BASE

pytestmark = pytest.mark.usefixtures("forks")

NASTY = "-a[1] b?c=%20*{x,y}: 中文 #&'"


def future_l1(folder: Path, *arguments: object) -> str:
    """Runs a command in a folder, with paths relative to it."""
    cache = str(folder.parent / "cache")
    variables = {"XDG_CACHE_HOME": cache, "COLUMNS": "1000", "FUTURE_L1_HOME": f"{NASTY} home"}
    return output(*arguments, folder=folder, **variables, **forked(COMMANDS, *PROGRAMS))


def test_curating_and_following(tmp_path: Path) -> None:
    folder = tmp_path / NASTY
    rows = write_shards(folder, shards=1, rows=8, faults=0)
    (shard,) = (folder / "twiff").iterdir()
    table = pl.read_parquet(shard, glob=False)
    clips = [f"{name[:-4]}{NASTY}.mp4" for name in table["video"]]
    for name, clip in set(zip(table["video"], clips, strict=True)):
        (folder / "clips" / name).rename(folder / "clips" / clip)
    shard.unlink()
    table.with_columns(pl.Series("video", clips)).write_parquet(folder / "twiff" / f"{NASTY} 1.parquet")
    with served(Model(rows)) as endpoint, served(judge) as judging:
        options = ("--clips", "clips", "--endpoint", endpoint.url, "--model", "served", "--judge", judging.url,
                   "--judge-model", "served", "--out", f"{NASTY} out")  # fmt: skip
        for trajectories in (f"twiff/{NASTY} 1.parquet", f"{folder}/twiff/*.parquet"):
            assert "Tables   -a[1] b?c" in future_l1(folder, "curate", *options, "--trajectories", trajectories)
    out = folder / f"{NASTY} out"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["scored"] == summary["read"] == 8 and summary["kept"] > 0
    scored = pl.read_parquet(out / "visual_gain.parquet", glob=False)
    assert set(scored["video"]) == set(clips)
    exported = json.loads((out / "future_l1_50k.json").read_text())
    assert len(exported) == summary["kept"]
    (folder / f"{NASTY} home").symlink_to(out / "work")
    assert "curation/visual_gain" in future_l1(folder, "lineage", f"{scored['row_id'][0]}")
    assert "curation/future_l1_50k" in future_l1(folder, "inspect", "--verify")


def test_evaluating_and_predicting(tmp_path: Path) -> None:
    folder = tmp_path / NASTY
    (folder / "-source" / "first_part_video").mkdir(parents=True)
    write_batch(write_futurebench(folder / "-source", 1, np.random.default_rng(0)))
    (folder / "-checkpoint").mkdir()
    (folder / "-checkpoint" / MODEL).symlink_to(BASE)
    out = ("--out", "-out[1]?")
    answered = future_l1(
        folder, "evaluate", "--checkpoint", "-checkpoint", "--benchmark", "futurebench", "--data-dir", "-source",
        "--layout", "keyframes", "--max-new-tokens", 4, "--image-tokens", 4, 16, "--device", "cpu", *out,
    )  # fmt: skip
    assert "Tables   -out[1]?" in answered and "answered 4 of 4 items" in answered
    assert "answered 4 of 4 items" in future_l1(folder, "evaluate", *out)
    clip = next((folder / "-source" / "first_part_video").iterdir())
    clip.rename(folder / "-0aBcDeFgHi-0:04:09.165-0:04:57.213[1]?.mp4")
    prompt = {"video": "-0aBcDeFgHi-0:04:09.165-0:04:57.213[1]?.mp4", "frames": [1], "question": "What comes next?"}
    (folder / "-prompts.json").write_text(json.dumps([prompt]))
    future_l1(folder, "predict", "--checkpoint", "-checkpoint", "--prompts", "-prompts.json", "--out", "-a[1].json",
              "--max-new-tokens", 2)  # fmt: skip
    (answer,) = json.loads((folder / "-a[1].json").read_text())["prompts"]
    assert len(answer["ids"]) == 2
