"""The selection is the paper's: thresholds on counts, gain order, top K; the same whatever the shards."""

import hashlib
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.curation.contamination import benchmark_index
from assets.curation.selection import REPEAT, SelectionSettings, select
from tests.assets.curation.scored_rows import Counts, scored_of, trajectory, write_shards
from training.data.trajectory import parse_row

NOTHING = benchmark_index({})


def write(folder: Path, counts: Counts, shards: int = 1, **fields: Any) -> list[Path]:
    rows = [trajectory(i, category=("predictive", "camera")[i % 2], **fields) for i in range(len(counts))]
    return write_shards(folder, scored_of(rows, counts), shards)


def test_saturated_unhelped_and_pending_rows_are_left_out_and_the_rest_ranked_by_gain(tmp_path: Path) -> None:
    files = write(tmp_path, [(7, 8), (6, 8), (0, 1), (5, 3), (0, 8), (None, None), (2, 5)])
    chosen = select(files, SelectionSettings(), NOTHING)
    assert chosen.rows.select("rank", "p_t", "p_v", "gain").rows() == [(1, 0, 8, 8), (2, 2, 5, 3), (3, 6, 8, 2)]
    report = chosen.report
    assert (report["read"], report["scored"], report["pending"]) == (7, 6, 1)
    assert (report["kept"], report["rejected"]) == (3, 3)
    reasons = {"saturated": 1, "low_gain": 2, "contaminated": 0, "repeats": 0, "below_the_cut": 0}
    assert report["rejected_by_reason"] == reasons
    assert report["gain_histogram"] == {"-2": 1, "1": 2, "2": 1, "3": 1, "8": 1}


def test_rows_cut_short_are_rejected_by_their_bounds_and_stay_out_of_the_histogram_of_gains(tmp_path: Path) -> None:
    table = scored_of([trajectory(i) for i in range(4)], [(0, 8), (0, 0), (8, 8), (0, 3)], cut=[1, 2])
    saturated = pl.when(pl.col("row_id").str.ends_with("2")).then(7).otherwise(pl.col("n_correct_plain"))
    files = write_shards(tmp_path, table.with_columns(saturated.alias("n_correct_plain")))
    report = select(files, SelectionSettings(), NOTHING).report
    assert (report["scored"], report["complete"], report["cut_short"], report["pending"]) == (4, 2, 2, 0)
    assert (report["rejected_by_reason"]["saturated"], report["rejected_by_reason"]["low_gain"]) == (1, 1)
    assert report["fully_sampled"] == 2 and report["gain_histogram"] == {"3": 1, "8": 1}


pairs = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=40)


@settings(max_examples=10)
@given(counts=pairs, top=st.integers(1, 20))
def test_the_selection_equals_the_definition_and_ignores_the_sharding(
    tmp_path_factory: pytest.TempPathFactory, counts: Counts, top: int
) -> None:
    folder = tmp_path_factory.mktemp("scored")
    wanted = sorted((v - t for t, v in counts if t <= 6 and v - t >= 2), reverse=True)[:top]  # type: ignore[operator]
    one = select(write(folder, counts), SelectionSettings(top=top), NOTHING).rows
    assert one["gain"].to_list() == wanted
    assert one["rank"].to_list() == list(range(1, len(wanted) + 1))
    if len(counts) >= 3:
        assert one.equals(select(write(folder, counts, shards=3)[::-1], SelectionSettings(top=top), NOTHING).rows)


def test_a_row_that_several_shards_have_counts_once_at_its_best(tmp_path: Path) -> None:
    rows = [trajectory(0), trajectory(1)]
    pending, scored = scored_of(rows, [(None, None), (0, 4)]), scored_of(rows, [(1, 6), (0, 4)])
    files = write_shards(tmp_path / "a", pending) + write_shards(tmp_path / "b", scored)
    chosen = select(files, SelectionSettings(), NOTHING)
    assert chosen.rows["gain"].to_list() == [5, 4]
    assert (chosen.report["read"], chosen.report["repeated_across_shards"], chosen.report["pending"]) == (2, 2, 0)
    assert chosen.excluded.height == 0


def test_equal_gains_are_ordered_by_the_hash_of_the_row_id(tmp_path: Path) -> None:
    rows = select(write(tmp_path, [(0, 8)] * 30), SelectionSettings(), NOTHING).rows
    assert rows["row_id"].to_list() == sorted(rows["row_id"], key=lambda i: hashlib.sha256(i.encode()).hexdigest())


def test_a_repeated_question_leaves_room_for_the_next_row_and_is_listed_with_what_it_repeats(tmp_path: Path) -> None:
    clip = trajectory(0)["video"]
    rows = [
        trajectory(0, question="frame_1\n<image>\nWhat is the man doing?", answer="he runs"),
        trajectory(1, question="frame_1\n<image>\nwhat is a man doing", answer="He runs.", video=clip),
        trajectory(2, answer="blue"),
    ]
    files = write_shards(tmp_path, scored_of(rows, [(0, 8), (0, 7), (0, 2)]))
    chosen = select(files, SelectionSettings(top=2), NOTHING)
    assert [int(row_id, 16) for row_id in chosen.rows["row_id"]] == [0, 2]
    (left,) = chosen.excluded.to_dicts()
    assert (int(left["row_id"], 16), left["reason"], int(left["repeats"], 16)) == (1, REPEAT, 0)
    assert chosen.report["rejected_by_reason"]["repeats"] == 1
    assert dict(chosen.pool.select("row_id", "status").iter_rows())[rows[1]["row_id"]] == "repeat"


def test_a_published_row_reads_back_as_the_same_trajectory(tmp_path: Path) -> None:
    reasoning = ["First.", "", "Then more.", ""]
    rows = [trajectory(0, reasoning=reasoning, future=[2, 3, 5]), trajectory(1)]
    files = write_shards(tmp_path, scored_of(rows, [(0, 8), (0, 7)]))
    for row in select(files, SelectionSettings(), NOTHING).rows.iter_rows(named=True):
        public = ("video", "conversations", "image", "reasoning_image", "answer", "meta_data")
        again = parse_row({name: row[name] for name in public}, "future_l1_50k", 1)
        assert (list(again.reasoning), again.question) == (row["reasoning"], row["question"])
        assert (list(again.future), again.category, again.answer) == (row["future"], row["category"], row["answer"])
        assert (row["correct_in_8_base"], row["correct_in_8_hint"]) == (row["p_t"], row["p_v"])


def test_no_shards_is_an_error_that_names_the_asset() -> None:
    with pytest.raises(ValueError, match="curation/visual_gain"):
        select([], SelectionSettings(), NOTHING)


def test_shards_without_a_row_to_keep_give_an_empty_publication(tmp_path: Path) -> None:
    chosen = select(write(tmp_path, [(8, 8), (0, 0)]), SelectionSettings(), NOTHING)
    assert (chosen.rows.height, chosen.pool.height, chosen.report["kept"], chosen.report["rejected"]) == (0, 0, 0, 2)
