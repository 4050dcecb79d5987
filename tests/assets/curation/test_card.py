"""The card tells the numbers that selected its rows, and which of them are a sample's."""

from typing import Any

import pytest

from assets.curation.contamination import benchmark_index
from assets.curation.previews import GAIN_FIGURE, gain_figure
from assets.curation.publication import COMPOSITION_FIGURE, dataset_card
from assets.curation.selection import CuratedTable, SelectionSettings, select
from evaluation.drawing.run_plots import composition, gain_histogram
from tests.assets.curation.scored_rows import scored_of, trajectory, write_shards

SETTINGS = SelectionSettings(top=3)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Five rows to keep, one too many for the cut, one repeated, three cut short, one pending."""
    rows = [trajectory(i, category=("predictive", "camera")[i % 2]) for i in range(9)]
    rows[1] |= {"video": rows[0]["video"], "category": "predictive"}
    counts: list[Any] = [(0, 8), (0, 7), (0, 6), (1, 4), (0, 2), (0, 0), (0, 0), (0, 0), (None, None)]
    files = write_shards(tmp_path_factory.mktemp("card"), scored_of(rows, counts, cut=[5, 6, 7]))
    return select(files, SETTINGS, benchmark_index({})).report


def test_the_card_names_counts_shares_and_thresholds(report: dict[str, Any]) -> None:
    card = dataset_card(report, SETTINGS, ["FutureBench (1,056 items)"])
    assert "3 video trajectories" in card and "n<1K" in card
    for line in ("| scored | 8 |", "| low gain | 3 |", "| repeats | 1 |", "| below the cut | 1 |", "| pending | 1 |",
                 "| 8 | 1 (33.3 %) |", "| predictive | 2 (66.7 %) |", "at most 3 rows",
                 "FutureBench (1,056 items)"):  # fmt: skip
        assert line in card, line
    assert f"]({GAIN_FIGURE})" in card and f"]({COMPOSITION_FIGURE})" in card


def test_the_card_says_of_which_rows_the_gains_are(report: dict[str, Any]) -> None:
    card = dataset_card(report, SETTINGS, [])
    assert "Gain of all scored rows, from 5 of them" in card
    assert "3 of the 8 scored rows were cut short" in card and "no benchmark" in card


def test_every_column_of_the_published_table_is_described(report: dict[str, Any]) -> None:
    card = dataset_card(report, SETTINGS, [])
    assert [name for name in CuratedTable.column_names() if f"| `{name}` | " not in card] == []


def test_the_figure_of_gains_is_a_png_and_stays_the_same(report: dict[str, Any]) -> None:
    figure = gain_figure(report)
    assert figure.startswith(b"\x89PNG") and gain_figure(report) == figure != gain_histogram({}, {"8": 1})


def test_nothing_published_is_drawn_too() -> None:
    assert gain_histogram({}, {}).startswith(b"\x89PNG") and composition({}, {}).startswith(b"\x89PNG")
