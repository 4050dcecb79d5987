"""Random rows whatever their gain; RL rows from the retained pool, with what they share with SFT counted."""

from pathlib import Path

import polars as pl
import pytest

from assets.curation.contamination import BenchmarkIndex, benchmark_index
from assets.curation.scored import hash_order
from assets.curation.selection import Selection, SelectionSettings, select
from assets.curation.sets import random_set, rl_set
from tests.assets.curation.scored_rows import Counts, scored_of, trajectory, write_shards
from training.storage.hashing import stable_hash

NOTHING = benchmark_index({})


def curated(folder: Path, counts: Counts, top: int, rows_per_clip: int = 1) -> tuple[list[Path], Selection]:
    rows = [trajectory(i, video=f"clip{i // rows_per_clip:07d}_0.mp4", answer=("red", "blue")[i % 2])
            for i in range(len(counts))]  # fmt: skip
    files = write_shards(folder, scored_of(rows, counts), shards=2)
    return files, select(files, SelectionSettings(top=top), NOTHING)


def test_rl_rows_come_from_the_retained_pool_on_clips_that_sft_does_not_see(tmp_path: Path) -> None:
    files, sft = curated(tmp_path, [(0, 8)] * 30 + [(8, 8)] * 10, top=12)
    rl, report = rl_set(files, sft.pool, rows=10, seed=1, avoid_sft=True)
    assert rl.height == 10 and (rl["p_t"] <= 6).all()
    assert not set(rl["video"]) & set(sft.rows["video"])
    assert rl.equals(rl_set(files, sft.pool, rows=10, seed=1, avoid_sft=True)[0])
    assert rl_set(files, sft.pool, 10, 2, True)[0]["row_id"].to_list() != rl["row_id"].to_list()
    assert rl_set(files, sft.pool, 5, 1, True)[0]["row_id"].to_list() == rl["row_id"].to_list()[:5]
    assert (report["rows_shared_with_sft"], report["clips_shared_with_sft"], report["short"]) == (0, 0, 0)


def test_a_pool_that_is_too_small_is_reported(tmp_path: Path) -> None:
    files, sft = curated(tmp_path, [(0, 8)] * 30, top=12)
    rl, report = rl_set(files, sft.pool, rows=25, seed=1, avoid_sft=True)
    assert (rl.height, report["wanted"], report["rows"], report["short"]) == (18, 25, 18, 7)
    both, both_report = rl_set(files, sft.pool, rows=25, seed=1, avoid_sft=False)
    assert both.height == 25 and (both_report["pool"], both_report["pool_on_unseen_clips"]) == (30, 18)
    shared = set(both["row_id"]) & set(sft.rows["row_id"])
    assert both_report["rows_shared_with_sft"] == len(shared) > 0


def test_a_clip_under_another_name_is_a_clip_that_sft_sees(tmp_path: Path) -> None:
    same = trajectory(0)["sha256"]
    rows = [trajectory(0), trajectory(1, video="copy.mp4", sha256=same, answer="blue"), trajectory(2)]
    files = write_shards(tmp_path, scored_of(rows, [(0, 8), (0, 7), (0, 6)]))
    sft = select(files, SelectionSettings(top=1), NOTHING)
    assert rl_set(files, sft.pool, 9, 0, avoid_sft=True)[0]["row_id"].to_list() == [rows[2]["row_id"]]
    assert rl_set(files, sft.pool, 9, 0, avoid_sft=False)[1]["clips_shared_with_sft"] == 1


def test_rows_that_no_answer_could_get_right_are_passed_over(tmp_path: Path) -> None:
    rows = [trajectory(i, answer="mauve" if i < 5 else "red") for i in range(12)]
    files = write_shards(tmp_path, scored_of(rows, [(0, 8)] * 12))
    pool = select(files, SelectionSettings(top=1), NOTHING).pool
    rl, _ = rl_set(files, pool, rows=7, seed=3, avoid_sft=False)
    assert set(rl["answer"]) == {"red"} and rl.height == 7
    assert rl_set(files, pool, rows=8, seed=3, avoid_sft=False)[1]["cannot_be_graded"] == 5


def test_the_random_set_takes_rows_whatever_their_gain(tmp_path: Path) -> None:
    files, _ = curated(tmp_path, [(0, 8)] * 20 + [(8, 8)] * 20 + [(None, None)] * 20, top=5)
    sample, report = random_set(files, 40, 0, NOTHING)
    assert sample.height == 40 and report == {"wanted": 40, "rows": 40, "of": 60, "contaminated": 0}
    assert sample["gain"].null_count() > 0 and (sample["p_t"] == 8).any()
    assert sample.equals(random_set(files[::-1], 40, 0, NOTHING)[0])
    assert random_set(files, 100, 0, NOTHING)[0].height == 60


def test_the_random_set_passes_over_rows_that_a_benchmark_has(tmp_path: Path) -> None:
    files, _ = curated(tmp_path, [(0, 8)] * 20, top=5)
    all_rows = random_set(files, 20, 0, NOTHING)[0]
    index = _of_videos(tmp_path, all_rows["video"].head(4))
    sample, report = random_set(files, 12, 0, index)
    assert sample["row_id"].to_list() == all_rows["row_id"].to_list()[4:16]
    assert (report["rows"], report["contaminated"]) == (12, 4)


def _of_videos(folder: Path, videos: pl.Series) -> BenchmarkIndex:
    table = pl.DataFrame({"id": videos, "video": videos}).with_columns(
        *(pl.lit(None, pl.String).alias(name) for name in ("start", "end", "question", "answer")),
        pl.lit(None, pl.List(pl.Binary)).alias("question_images"),
    )
    table.write_parquet(folder / "items.parquet")
    return benchmark_index({"twiffbench": folder / "items.parquet"})


@pytest.mark.parametrize("seed", [(), (7,), (7, 8)])
def test_a_column_of_hashes_is_the_stable_hash_of_each_row(seed: tuple[int, ...]) -> None:
    row_ids = pl.Series("row_id", ["a", "é", "row/plain", ""])
    assert hash_order(row_ids, *seed).to_list() == [stable_hash(*seed, row_id) for row_id in row_ids]
    assert hash_order(row_ids.clear(), *seed).to_list() == []
