"""Pulling a shard: every row becomes a trajectory or a quarantined row with its reason."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from assets.toyworld.broken import FAULTS
from assets.toyworld.trajectories import Mix, draw_shard
from assets.trajectories.validate import Quarantine, pull_shard, quarantined
from training.data.trajectory import RejectedRow, TrajectoryTable, from_rows

CLIP_REASONS = {"path outside clip root", "missing clip", "unreadable clip"}  # found when clips are resolved


def twiff_row(**changes: Any) -> dict[str, Any]:
    row = {
        "video": "AAAAAAAAAAA_0.mp4",
        "question": "frame_1\n<image>\nWhat happens?",
        "answer": "It rolls. <rimage> <ans>it stops</ans>",
        "question_images_index": [1],
        "reasoning_images_index": [4],
        "meta_data": {"Process": "p", "Summary": "s", "classification": "Camera", "start": "0", "end": "1"},
    }
    return row | changes


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    pl.DataFrame(rows).write_parquet(path)
    return path


def test_each_fault_is_caught_with_its_reason_and_no_row_is_lost(tmp_path: Path) -> None:
    shard = draw_shard(80, Mix(), 1, tmp_path, np.random.default_rng(0))
    shard.write(tmp_path / "train-00000-of-00001.parquet")
    rows, quarantine = pull_shard(tmp_path / "train-00000-of-00001.parquet")
    expected = Counter(fault.reason for fault in FAULTS.values() if fault.reason not in CLIP_REASONS)
    assert dict(quarantine["reason"].value_counts().iter_rows()) == expected
    assert rows.height + quarantine.height == 80
    assert TrajectoryTable.is_valid(rows) and Quarantine.is_valid(quarantine)
    assert set(quarantine["source"]) == {"train-00000-of-00001"}


def test_a_quarantined_row_is_found_by_its_number_and_says_what_was_found(tmp_path: Path) -> None:
    path = write(tmp_path / "s.parquet", [twiff_row(), twiff_row(video="b.mp4", reasoning_images_index=[9])])
    _, quarantine = pull_shard(path)
    assert quarantine.row(0, named=True) == {
        "source": "s",
        "row": 1,
        "row_id": None,
        "reason": "key frame outside 1..8",
        "detail": "reasoning_images_index holds 9",
    }


def test_of_two_equal_rows_the_first_stays(tmp_path: Path) -> None:
    rows, quarantine = pull_shard(write(tmp_path / "s.parquet", [twiff_row(), twiff_row(video="b.mp4"), twiff_row()]))
    assert rows["video"].to_list() == ["AAAAAAAAAAA_0.mp4", "b.mp4"]
    assert quarantine.select("row", "reason", "detail").row(0) == (2, "repeated row", "has the same content as row 0")


def test_the_published_layout_is_pulled_to_the_same_trajectories(tmp_path: Path) -> None:
    row = twiff_row()
    published = {
        "video": row["video"],
        "conversations": [
            {"from": "human", "value": row["question"]},
            {"from": "gpt", "value": "THOUGHT 1: It rolls. <image>"},
        ],
        "image": [1],
        "reasoning_image": [4],
        "answer": "it stops",
        "meta_data": row["meta_data"],
        "gain": 5,
    }
    pulled = [pull_shard(write(tmp_path / "s.parquet", [one]))[0] for one in (row, published)]
    assert from_rows(pulled[0]) == from_rows(pulled[1])


def test_embedded_images_and_unknown_columns_are_not_read(tmp_path: Path) -> None:
    rows, _ = pull_shard(write(tmp_path / "s.parquet", [twiff_row(question_images=[{"bytes": b"x"}], extra=1)]))
    assert rows.columns == TrajectoryTable.column_names()


@pytest.mark.parametrize("meta", [None, {"other": 1}, {"classification": None}])
def test_rows_without_the_metadata_are_still_trajectories(tmp_path: Path, meta: Any) -> None:
    rows, _ = pull_shard(write(tmp_path / "s.parquet", [twiff_row(meta_data=meta)]))
    assert rows.select("category", "start", "end").row(0) == ("other", None, None)


def test_a_wholly_mistyped_column_rejects_its_rows_and_does_not_crash(tmp_path: Path) -> None:
    rows, quarantine = pull_shard(write(tmp_path / "s.parquet", [twiff_row(question_images_index=[1.0])]))
    assert rows.is_empty()
    assert quarantine["reason"].to_list() == ["key frame is not an integer"]


def test_a_shard_without_rows_gives_two_empty_tables(tmp_path: Path) -> None:
    pl.DataFrame([twiff_row()]).clear().write_parquet(tmp_path / "s.parquet")
    rows, quarantine = pull_shard(tmp_path / "s.parquet")
    assert rows.is_empty() and quarantine.is_empty()


def test_another_table_and_a_file_that_is_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"other\.parquet is not a TwiFF shard"):
        pull_shard(write(tmp_path / "other.parquet", [{"video": "a", "caption": "b"}]))
    (tmp_path / "page.parquet").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"page\.parquet cannot be read"):
        pull_shard(tmp_path / "page.parquet")


def test_a_quarantined_row_must_be_findable() -> None:
    lost = pl.DataFrame([quarantined("s", RejectedRow("why", "what"))], schema=Quarantine.create_empty().schema)
    assert not Quarantine.is_valid(lost)
