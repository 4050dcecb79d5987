"""What the UI shows of rows: their frames and answers as they are, whatever their texts and clips hold."""

import io
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from markdown_it import MarkdownIt
from PIL import Image

from assets.curation.previews import PNG_LIMIT, highest, rejected_table, storyboards, top_rows
from assets.curation.visual_gain import VerdictTable
from tests.assets.curation.scored_rows import rows_of, trajectory
from tests.footage import CLIPS, FOOTAGE
from tests.toy import toy_rows
from training.data.keyframes import key_frame_number
from training.data.video import read_frames

HOSTILE = (
    "a | b <script>alert(1)</script> ![x](http://example.invalid/x.png) [y](javascript:z) `c` **d** $\\frac{1$ &amp;"
    " \\| \n# e\x1b[31m\x00 http://example.invalid \u202e"
)


def scored(rows: list[dict[str, Any]], *counts: tuple[int, int] | None) -> pl.DataFrame:
    """Rows with p_t, p_v and gain; None: a row that was cut short."""
    counts_by_row = [
        (p_t, p_v, p_v - p_t) if (p_t, p_v) != (-1, -1) else (None,) * 3 for p_t, p_v in (c or (-1, -1) for c in counts)
    ]
    schema = dict.fromkeys(("p_t", "p_v", "gain"), pl.Int64)
    return pl.concat([pl.DataFrame(rows), pl.DataFrame(counts_by_row, schema=schema, orient="row")], how="horizontal")


def verdicts(table: pl.DataFrame, right: str = "", wrong: str = "<answer>no</answer>") -> pl.DataFrame:
    """Verdicts that give the rows their counts."""
    rows = [
        (row["row_id"], condition, sample, (right or f"<answer>{row['answer']}</answer>") if sample < p else wrong,
         "correct" if sample < p else "incorrect", "judge")
        for row in table.iter_rows(named=True)
        for condition, p in (("plain", row["p_t"]), ("hint", row["p_v"]))
        for sample in range(8)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=VerdictTable.create_empty().schema, orient="row")


def picture(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG" and image.width == 1130
    return np.asarray(image.convert("RGB"))


def shows(page: np.ndarray, frame: np.ndarray, times: int) -> bool:
    """Whether the picture has the inside of this frame, enlarged: borders are drawn over its edges."""
    inside = np.kron(frame, np.ones((times, times, 1), np.uint8))[8:-8, 8:-8]
    windows = np.lib.stride_tricks.sliding_window_view(page, inside.shape[:2], axis=(0, 1))
    candidates = np.argwhere((windows[..., 0, 0] == inside[0, 0]).all(axis=-1))
    return any(np.array_equal(page[y : y + inside.shape[0], x : x + inside.shape[1]], inside) for y, x in candidates)


@pytest.fixture
def toys(tmp_path: Path) -> pl.DataFrame:
    return scored(toy_rows(tmp_path, [1, 2, 3]), (0, 8), (0, 3), (4, 6))


def test_a_storyboard_shows_the_observed_and_the_future_frames(toys: pl.DataFrame) -> None:
    page = picture(storyboards(toys, verdicts(toys), 1))
    best, other = toys.row(0, named=True), toys.row(2, named=True)
    pool = [key_frame_number(best["frame_count"], index) for index in (1, 2, 3)]
    first, second, third = read_frames(best["path"], pool, "sequential")
    assert shows(page, first, 2) and shows(page, second, 2)
    assert not shows(page, third, 2)  # it is not among the row's future frames
    assert not shows(page, read_frames(other["path"], pool[:1], "sequential")[0], 2)


def test_verdicts_change_what_is_shown_and_those_of_other_rows_do_not(toys: pl.DataFrame) -> None:
    best = toys.head(1)
    png = storyboards(toys, verdicts(toys), 1)
    assert storyboards(toys, verdicts(best), 1) == png == storyboards(best, verdicts(best), 5)
    assert storyboards(best, verdicts(best, wrong="<answer>yes</answer>"), 1) != png
    unjudged = verdicts(best).with_columns(verdict=pl.lit("unjudged"))
    assert storyboards(best, unjudged, 1) != png
    assert len(picture(storyboards(best, verdicts(best).clear(), 1))) > 200  # a row that brought its own counts


@pytest.mark.parametrize(
    "broken",
    [{"path": "/gone/clip.mp4"}, {"path": __file__, "reader": "seek"}, {"frame_count": 900}, {"reader": "none"}],
)
def test_a_clip_that_cannot_be_read_is_a_grey_box(toys: pl.DataFrame, broken: dict[str, Any]) -> None:
    row = toys.head(1)
    lost = row.with_columns(**{name: pl.lit(value) for name, value in broken.items()})
    lost_page, whole_page = (picture(storyboards(rows, verdicts(row), 1)) for rows in (lost, row))
    left = [page[50:140, 40:590] for page in (lost_page, whole_page)]  # under the title, left of the question
    assert (np.ptp(left[0].astype(int), axis=-1) < 8).all(), "grey, and the reason in grey letters"
    assert (left[0] < 0x90).all(axis=-1).any()
    assert (np.ptp(left[1].astype(int), axis=-1) > 100).any(), "else the toy world's colours are there"


def test_ten_rows_of_real_footage_in_all_their_frames_stay_small(tmp_path: Path) -> None:
    rows = toy_rows(tmp_path, [1] * 10)
    for row, (name, frames) in zip(rows, [*CLIPS.items()] * 3, strict=False):
        row |= {"path": str(FOOTAGE / name), "frame_count": frames, "future": list(range(2, 9))}
        row["question"] = "frame_1\n<image>\n" + "What will the cyclist do next, and why? " * 40
    table = scored(rows, *[(0, 8)] * 10)
    png = storyboards(table, verdicts(table), 10)
    assert len(png) <= PNG_LIMIT
    assert len(picture(png)) < 10 * 500


@pytest.mark.parametrize("text", [HOSTILE, "W" * 5_000, "$" * 300, "\u0301" * 900, "", "漢字" * 400])
def test_hostile_text_is_bounded_and_is_no_markup(toys: pl.DataFrame, text: str) -> None:
    row = toys.head(1).with_columns(
        question="frame_1\n<image>\n" + pl.lit(text), answer=pl.lit(text), video=pl.lit(text), category=pl.lit(text)
    )
    for response in (text, f"<answer>{text}</answer>"):
        assert len(picture(storyboards(row, verdicts(row, response, response), 1))) < 600


def test_the_highest_rows_are_in_the_order_of_selection() -> None:
    table = scored([trajectory(i) for i in range(6)], (0, 3), (0, 8), None, (0, 8), (0, 8), (1, 8))
    best = table.filter(pl.col("gain") == 8)["row_id"].to_list()
    order = duckdb.sql(f"SELECT unnest({best}) AS row_id ORDER BY sha256(row_id)").fetchall()
    ranked = [row_id for (row_id,) in order] + [f"{5:016x}", f"{0:016x}"]
    assert highest(table, 10)["row_id"].to_list() == ranked
    assert highest(table, 2)["row_id"].to_list() == ranked[:2]
    assert highest(table, 4).columns == table.columns


def test_without_a_gain_there_is_nothing_to_show() -> None:
    table = scored([trajectory(0)], None)
    assert len(picture(storyboards(table, verdicts(table.clear()), 3))) < 100
    assert len(top_rows(table).splitlines()) == 2
    assert highest(rows_of().with_columns(pl.lit(None, pl.Int64).alias("gain")), 3).is_empty()


class Tags(HTMLParser):
    """The tags and cells of a rendered table."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data.strip("\n")


def rendered(markdown: str) -> Tags:
    return Tags(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))


def test_cells_of_the_table_of_top_rows_are_text_and_nothing_else() -> None:
    plain = trajectory(0, question="frame_1\n<image>\nWhat\nhappens?", answer="it falls")
    hostile = trajectory(1, question=f"frame_1\n<image>\n{HOSTILE}", answer=HOSTILE, video="x" * 500)
    table = rendered(top_rows(scored([plain, hostile], (1, 8), (0, 2))))
    assert table.tags <= {"table", "thead", "tbody", "tr", "th", "td"}
    assert table.cells[:8] == ["1", "7", "1", "8", "predictive", "What happens?", "it falls", "clip0000000_0.mp4"]
    assert len(table.cells) == 16
    assert table.cells[14].startswith("a | b <script>alert(1)</script> ![x](http://example.invalid/x.png) [y]")
    assert len(table.cells[15]) == 120


def test_the_rejected_are_counted_by_reason() -> None:
    report = {"scored": 200, "rejected_by_reason": {"saturated": 50, "below_the_cut": 1_000}}
    cells = rendered(rejected_table(report)).cells
    assert cells == ["saturated", "50", "25.0 %", "below the cut", "1,000", "500.0 %", "all", "1,050", "525.0 %"]
    assert rendered(rejected_table({"scored": 0, "rejected_by_reason": {}})).cells == ["all", "0", "-"]
