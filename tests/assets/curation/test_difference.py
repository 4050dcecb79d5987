"""A new version is told apart from the one before."""

from pathlib import Path

import polars as pl
import pytest

from assets.curation.contamination import benchmark_index
from assets.curation.difference import change_report, difference
from assets.curation.selection import SelectionSettings, select
from tests.assets.curation.scored_rows import Counts, scored_of, trajectory, write_shards

NOTHING = benchmark_index({})


def published(folder: Path, counts: Counts) -> pl.DataFrame:
    rows = [trajectory(i, category=("predictive", "camera")[i % 2]) for i in range(len(counts))]
    return select(write_shards(folder, scored_of(rows, counts)), SelectionSettings(), NOTHING).rows


def test_a_difference_names_what_came_what_went_and_what_drifted(tmp_path: Path) -> None:
    old = published(tmp_path, [(0, 8), (0, 4), (0, 2)])
    new = published(tmp_path, [(0, 8), (0, 6), (5, 6), (1, 8)])
    change = difference(new, old)
    assert (change["rows_in"], change["rows_out"], change["rows_kept"], change["gains_changed"]) == (1, 1, 2, 1)
    assert change["gain_drift"] == {"2": 1}
    assert sum(change["category_shift"].values()) == pytest.approx(0)
    report = change_report(change, "0123")
    for line in ("version 0123", "| new | 1 |", "| gone | 1 |", "| +2 | 1 |", "| camera | +33.33 |"):
        assert line in report


def test_a_first_version_of_nothing_can_be_compared(tmp_path: Path) -> None:
    empty = published(tmp_path, [(8, 8)])
    assert "Mean gain: none before, none now." in change_report(difference(empty, empty), "0")
