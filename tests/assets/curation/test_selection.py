"""The selection is the paper's: thresholds on counts, gain order, top K; the same whatever the shards."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.curation.selection import SelectionSettings, difference, random_set, rl_set, select, selection_report
from tests.assets.curation.scored_rows import rows_of, trajectory
from training.data.trajectory import parse_row

Counts = list[tuple[int | None, int | None]]


def write(folder: Path, counts: Counts, shards: int = 1) -> list[Path]:
    table = rows_of(
        *(trajectory(i, category=("predictive", "camera")[i % 2]) for i in range(len(counts)))
    ).with_columns(
        pl.Series("p_t", [t for t, _ in counts], pl.Int64), pl.Series("p_v", [v for _, v in counts], pl.Int64)
    )
    table = table.with_columns((pl.col("p_v") - pl.col("p_t")).alias("gain"))
    paths = []
    for shard in range(shards):
        paths.append(folder / f"{shards}-{shard}.parquet")
        table.gather_every(shards, shard).write_parquet(paths[-1])
    return paths


def test_saturated_unhelped_and_pending_rows_are_left_out_and_the_rest_ranked_by_gain(tmp_path: Path) -> None:
    files = write(tmp_path, [(7, 8), (6, 8), (0, 1), (5, 3), (0, 8), (None, None), (2, 5)])
    chosen = select(files, SelectionSettings())
    assert chosen.select("rank", "p_t", "p_v", "gain").rows() == [(1, 0, 8, 8), (2, 2, 5, 3), (3, 6, 8, 2)]
    report = selection_report(files, SelectionSettings(), chosen)
    assert (report["read"], report["scored"], report["kept"], report["rejected"]) == (7, 6, 3, 3)
    assert report["rejected_by_reason"] == {"saturated": 1, "low_gain": 2, "below_the_cut": 0}
    assert report["gain_histogram"] == {"-2": 1, "1": 2, "2": 1, "3": 1, "8": 1}


pairs = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=40)


@settings(deadline=None, max_examples=10)
@given(counts=pairs, top=st.integers(1, 20))
def test_the_selection_equals_the_definition_and_ignores_the_sharding(
    tmp_path_factory: pytest.TempPathFactory, counts: Counts, top: int
) -> None:
    folder = tmp_path_factory.mktemp("scored")
    wanted = sorted((v - t for t, v in counts if t <= 6 and v - t >= 2), reverse=True)[:top]
    one = select(write(folder, counts), SelectionSettings(top=top))
    assert one["gain"].to_list() == wanted
    assert one["rank"].to_list() == list(range(1, len(wanted) + 1))
    if len(counts) >= 3:
        assert one.equals(select(write(folder, counts, shards=3)[::-1], SelectionSettings(top=top)))


def test_rl_rows_come_from_the_retained_pool_on_clips_that_sft_does_not_see(tmp_path: Path) -> None:
    files = write(tmp_path, [(0, 8)] * 30 + [(8, 8)] * 10)
    rule = SelectionSettings(top=12)
    sft = select(files, rule)
    rl = rl_set(files, rule, sft, rows=10, seed=1)
    assert rl.height == 10 and (rl["p_t"] <= 6).all()
    assert not set(rl["video"]) & set(sft["video"])
    assert rl.equals(rl_set(files, rule, sft, rows=10, seed=1))
    assert rl_set(files, rule, sft, rows=10, seed=2)["row_id"].to_list() != rl["row_id"].to_list()
    assert rl_set(files, rule, sft, rows=1000, seed=1).height == 18


def test_the_random_set_takes_rows_whatever_their_gain(tmp_path: Path) -> None:
    files = write(tmp_path, [(0, 8)] * 20 + [(8, 8)] * 20 + [(None, None)] * 20)
    drawn = random_set(files, 40, seed=0)
    assert drawn.height == 40
    assert drawn["gain"].null_count() > 0 and (drawn["p_t"] == 8).any()


def test_a_published_row_reads_back_as_the_same_trajectory(tmp_path: Path) -> None:
    row = select(write(tmp_path, [(0, 8)]), SelectionSettings()).row(0, named=True)
    public = ("video", "conversations", "image", "reasoning_image", "answer", "meta_data")
    again = parse_row({name: row[name] for name in public}, "future_l1_50k", 1)
    assert (list(again.reasoning), again.question) == (row["reasoning"], row["question"])
    assert (list(again.future), again.category, again.answer) == (row["future"], row["category"], row["answer"])
    assert (row["correct_in_8_base"], row["correct_in_8_hint"]) == (row["p_t"], row["p_v"]) == (0, 8)


def test_a_difference_names_what_came_what_went_and_what_drifted(tmp_path: Path) -> None:
    old = select(write(tmp_path, [(0, 8), (0, 4), (0, 2)]), SelectionSettings())
    new = select(write(tmp_path, [(0, 8), (0, 6), (5, 6), (1, 8)]), SelectionSettings())
    change = difference(new, old)
    assert (change["rows_in"], change["rows_out"], change["rows_kept"], change["gains_changed"]) == (1, 1, 2, 1)
    assert sum(change["category_shift"].values()) == pytest.approx(0)


def test_no_shards_is_an_error_that_names_the_asset() -> None:
    with pytest.raises(ValueError, match="curation/visual_gain"):
        select([], SelectionSettings())
