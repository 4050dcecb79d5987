"""A publication holds its rows, what was left out and why, what changed, a JSON list that the release reads, and a card
with the numbers that selected its rows and those that are a sample's."""

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assets.curation import publication
from assets.curation.contamination import benchmark_index
from assets.curation.dataset_card import COMPOSITION_FIGURE, PUBLIC_COLUMNS, Origin, SourceShards, dataset_card
from assets.curation.previews import GAIN_FIGURE, gain_figure
from assets.curation.publication import change_report, difference, export_json
from assets.curation.selection import CuratedTable, ExclusionTable, PoolTable, SelectionSettings, select
from evaluation.drawing.run_plots import composition, gain_histogram
from tests.assets.curation.scored_rows import Counts, scored_of, trajectory, write_shards

NOTHING = benchmark_index({})
SETTINGS = SelectionSettings(top=3)
ORIGIN = Origin([SourceShards("lab/twiff", "0123abcd", 2, 9)], "lab/model-8b", 8)


def test_a_publication_is_complete_and_the_next_one_tells_what_changed(tmp_path: Path) -> None:
    index, settings = NOTHING, SelectionSettings(top=3)
    folders = [tmp_path / "first", tmp_path / "second"]
    reports = []
    for folder, gains in zip(folders, [(8, 7, 6, 5), (8, 7, 6, 5, 8)], strict=True):
        folder.mkdir()
        rows = [trajectory(i) for i in range(len(gains))]
        files = write_shards(tmp_path / f"scored {len(gains)}", scored_of(rows, [(0, gain) for gain in gains]))
        before = ("v1", folders[0] / publication.CURATED_TABLE) if reports else None
        reports.append(publication.publish(folder, files, settings, index, before, ORIGIN))
    wanted = {"future_l1_50k.parquet", "future_l1_50k.json", "pool.parquet", "excluded.parquet", "README.md",
              "gain_histogram.png", "composition.png", "local"}  # fmt: skip
    assert {path.name for path in folders[0].iterdir()} == wanted
    assert {path.name for path in folders[1].iterdir()} == wanted | {"CHANGE.md"}
    schemas = {publication.CURATED_TABLE: CuratedTable, publication.POOL_TABLE: PoolTable,
               publication.EXCLUDED_TABLE: ExclusionTable}  # fmt: skip
    for name, schema in schemas.items():
        schema.validate(pl.read_parquet(folders[1] / name))
    assert (reports[1]["change"]["rows_in"], reports[1]["change"]["rows_out"]) == (1, 1)
    assert "| new | 1 |" in (folders[1] / "CHANGE.md").read_text()


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


def rendered(record: dict[str, Any]) -> tuple[list[str | int], list[str | int]]:
    """A record's user and assistant pieces by reference/sft.md 2.1 and 2.3; frames are their indices.

    The first turn of a speaker counts.  The i-th marker is the i-th frame; surplus markers and frames are dropped.
    """
    assert isinstance(record["reasoning_image"], list) and all(type(k) is int for k in record["reasoning_image"])
    assert isinstance(record["image"][0], int), "integers make it the kind of record that holds key frames"
    turns: dict[str, str] = {}
    for turn in record["conversations"]:
        turns.setdefault(turn["from"], turn["value"])
    user: list[str | int] = []
    pieces = turns["human"].split("<image>")
    for number, piece in enumerate(pieces):
        user += [piece.strip()] if piece.strip() else []
        user += [record["image"][number]] if number < min(len(pieces) - 1, len(record["image"])) else []
    assistant: list[str | int] = []
    pieces = turns["gpt"].split("<image>")
    for number, piece in enumerate(pieces):
        text = re.sub(r"THOUGHT \d+:\s*", "", piece).strip()
        assistant += [f"<reason>{text}</reason>\n"] if text else []
        frames = record["reasoning_image"]
        assistant += [frames[number], "\n"] if number < min(len(pieces) - 1, len(frames)) else []
    if record["answer"].strip():
        assistant.append(f"<answer>{record['answer'].strip()}</answer>")
    return user, assistant


def test_the_releases_loader_reads_what_was_exported(tmp_path: Path) -> None:
    rows = [
        trajectory(0, question="frame_1\n<image>\nWhat happens?", answer='it "falls"\nand é', future=[3, 5],
                   reasoning=["It tips.", "", "Then: done."], start=None, end=None, process=None, summary="It falls."),
        trajectory(1),
    ]  # fmt: skip
    files = write_shards(tmp_path, scored_of(rows, [(0, 8), (1, 5)]))
    chosen = select(files, SelectionSettings(), NOTHING).rows
    export_json(chosen.sample(fraction=1, shuffle=True, seed=1), tmp_path / "future_l1_50k.json")
    records = json.loads((tmp_path / "future_l1_50k.json").read_text(encoding="utf-8"))
    assert isinstance(records, list) and len(records) == 2
    assert [set(record) for record in records] == [set(PUBLIC_COLUMNS)] * 2
    assert rendered(records[0]) == (
        ["frame_1", 1, "What happens?"],
        ["<reason>It tips.</reason>\n", 3, "\n", 5, "\n", "<reason>Then: done.</reason>\n",
         '<answer>it "falls"\nand é</answer>'],
    )  # fmt: skip
    assert records[0]["meta_data"] == {
        "Process": None, "Summary": "It falls.", "classification": "predictive", "start": None, "end": None
    }  # fmt: skip
    counts = [(record["gain"], record["correct_in_8_base"], record["correct_in_8_hint"]) for record in records]
    assert counts == [(8, 0, 8), (4, 1, 5)]
    text = json.dumps(records)
    assert "<rimage>" not in text and "<ans>" not in text and records[1]["video"] == rows[1]["video"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Five rows to keep, one too many for the cut, one repeated, three cut short, one pending."""
    rows = [trajectory(i, category=("predictive", "camera")[i % 2]) for i in range(9)]
    rows[1] |= {"video": rows[0]["video"], "category": "predictive"}
    counts: list[Any] = [(0, 8), (0, 7), (0, 6), (1, 4), (0, 2), (0, 0), (0, 0), (0, 0), (None, None)]
    files = write_shards(tmp_path_factory.mktemp("card"), scored_of(rows, counts, cut=[5, 6, 7]))
    return select(files, SETTINGS, benchmark_index({})).report


def test_the_card_names_counts_shares_and_thresholds(report: dict[str, Any]) -> None:
    card = dataset_card(report, SETTINGS, {"futurebench": 1_056}, ORIGIN)
    assert "3 questions" in card and "n<1K" in card
    for line in ("| scored | 8 |", "| low gain | 3 |", "| repeats | 1 |", "| below the cut | 1 |", "| pending | 1 |",
                 "| 8 | 1 (33.3 %) |", "| predictive | 2 (66.7 %) |", "at most 3. p_t",
                 "futurebench (1,056 items)",
                 "| `lab/twiff` at `0123abcd` | 2 shards, 9 rows |",
                 "right answers among 8, of lab/model-8b,"):  # fmt: skip
        assert line in card, line
    assert f"]({GAIN_FIGURE})" in card and f"]({COMPOSITION_FIGURE})" in card


def test_the_card_says_of_which_rows_the_gains_are(report: dict[str, Any]) -> None:
    card = dataset_card(report, SETTINGS, {}, ORIGIN)
    assert "Gain of all scored rows, from 5 of them" in card
    assert "3 of the 8 scored rows were cut short" in card and "no benchmark" in card


def test_every_column_of_the_published_table_is_described(report: dict[str, Any]) -> None:
    card = dataset_card(report, SETTINGS, {}, ORIGIN)
    assert [name for name in CuratedTable.column_names() if f"| `{name}` | " not in card] == []


def test_the_figure_of_gains_is_a_png_and_stays_the_same(report: dict[str, Any]) -> None:
    figure = gain_figure(report)
    assert figure.startswith(b"\x89PNG") and gain_figure(report) == figure != gain_histogram({}, {"8": 1})


def test_nothing_published_is_drawn_too() -> None:
    assert gain_histogram({}, {}).startswith(b"\x89PNG") and composition({}, {}).startswith(b"\x89PNG")
