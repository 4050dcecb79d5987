"""The card tells the numbers that selected its rows."""

from assets.curation.card import GAIN_FIGURE, dataset_card, gain_figure
from assets.curation.selection import SelectionSettings
from tests.evaluation.reports import curation


def test_the_card_names_counts_shares_and_thresholds() -> None:
    card = dataset_card(curation(), SelectionSettings(top=2_400))
    assert "2,400 video trajectories" in card and "1K<n<10K" in card
    for line in ("| low gain | 383 |", "| 8 | 2,074 |", "| predictive | 800 (33.3 %) |", "at most 2,400 rows"):
        assert line in card
    assert f"]({GAIN_FIGURE})" in card


def test_the_figure_of_the_card_is_a_png() -> None:
    assert gain_figure(curation()).startswith(b"\x89PNG")
