"""Storyboards of benchmark answers and the sheet under them: which items, their blocks, and text that is only text."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from evaluation.benchmarks.benchmark import StoredAnswers
from evaluation.benchmarks.futurebench import FutureBench, ItemTable
from evaluation.benchmarks.futurebench_items import FutureBenchSettings
from evaluation.drawing.sheet import Sheet, text_width, wrapped
from evaluation.drawing.storyboard import Board, BoardFrame, storyboard
from evaluation.reports.storyboards import LAYOUT, board_of, heading, sample_items, write_storyboards
from tests.evaluation.answers import answer_table

FRAME = np.full((36, 64, 3), 90, np.uint8)


ROW: dict[str, Any] = {
    "id": "a", "question_type": "hop1", "question": "Which?", "options": ["red", "green", "blue", "pink"],
    "answer": "A", "parsed": "A", "text": "<answer>red</answer>", "path": "gone.mp4", "frame_count": 9,
    "reader": "sequential",
}  # fmt: skip


def page(correct: bool = True, **changes: Any) -> np.ndarray:
    """The page of one item with such a row."""
    return pixels(storyboard([board_of(ROW | changes)], LAYOUT, heading(1, "m", correct)))


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as page:
        return np.asarray(page.convert("RGB"))


def captions(board: Board) -> list[str]:
    return [frame.caption for frame in board.frames if isinstance(frame, BoardFrame)]


def has(page: np.ndarray, colour: str) -> bool:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((page == wanted).all(-1).any())


@pytest.fixture
def tables(rows: list[dict[str, Any]], tmp_path: Path) -> tuple[Path, Path]:
    """Twenty items on real clips, the even ones right; one whose clip has gone."""
    kinds = ["hop1", "hop2", "hop3", "hop5"]
    items = [
        {
            "id": f"i{n:02d}", "video": None, "question_type": kinds[n % 4], "question": f"Question {n}?",
            "options": ["red", "green", "blue", "pink"], "answer": "A", "path": rows[n]["path"],
            "frame_count": rows[n]["frame_count"], "reader": "sequential", "problem": None,
        }
        for n in range(20)
    ]  # fmt: skip
    items[0]["path"] = str(tmp_path / "gone.mp4")
    table = ItemTable.validate(pl.DataFrame(items, schema=ItemTable.create_empty().schema))
    texts = {f"i{n:02d}": f"<reason>Why</reason><answer>{'A' if n % 2 == 0 else 'B'}</answer>" for n in range(20)}
    table.write_parquet(tmp_path / "items.parquet")
    graded = FutureBench(FutureBenchSettings()).grade(table, StoredAnswers(answer_table(texts)))
    graded.write_parquet(tmp_path / "graded.parquet")
    return tmp_path / "items.parquet", tmp_path / "graded.parquet"


# ---- which items


def test_right_and_wrong_answers_each_have_a_board(tables: tuple[Path, Path], tmp_path: Path) -> None:
    written = write_storyboards(*tables, tmp_path, "m")
    assert [path.name for path in written] == ["storyboard_correct.png", "storyboard_incorrect.png"]
    first = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in write_storyboards(*tables, tmp_path, "m")] == first, "the same items"
    heights = [pixels(data).shape[0] for data in first]
    [few] = [
        path for path in write_storyboards(*tables, tmp_path, "m", each=1) if path.name == "storyboard_correct.png"
    ]
    assert pixels(few.read_bytes()).shape[0] < heights[0] / 2


def test_where_nothing_is_wrong_there_is_no_such_board(tables: tuple[Path, Path], tmp_path: Path) -> None:
    items, answers = tables
    pl.read_parquet(answers).filter("correct").write_parquet(tmp_path / "all_right.parquet")
    assert [path.name for path in write_storyboards(items, tmp_path / "all_right.parquet", tmp_path, "m")] == [
        "storyboard_correct.png"
    ]


def test_every_depth_is_drawn_before_any_is_drawn_twice(tables: tuple[Path, Path]) -> None:
    table = pl.read_parquet(tables[0])
    rows = sample_items(table, 5, seed=0)
    assert [row["question_type"] for row in rows] == ["hop1", "hop1", "hop2", "hop3", "hop5"]
    assert sample_items(table.reverse(), 5, seed=0) == rows
    assert sample_items(table, 5, seed=1) != rows
    assert len(sample_items(table, 99, seed=0)) == 20


# ---- what a board holds


def test_a_board_holds_the_item_and_its_answer(tables: tuple[Path, Path]) -> None:
    row = pl.read_parquet(tables[0]).join(pl.read_parquet(tables[1]).select("id", "text", "parsed"), on="id").row(
        1, named=True
    )  # fmt: skip
    board = board_of(row)
    assert board.detail == "2 hops · i01"
    question, answer = board.blocks[0].columns  # type: ignore[attr-defined]
    assert [block.mark for block in question] == ["", "✓ true", "✗ chosen", "", ""]
    assert [(block.label, block.text) for block in answer] == [("reason", "Why"), ("answer", "B")]
    assert captions(board) == ["frame 0", "frame 5", "frame 10", "frame 15"]


def test_a_clip_that_has_gone_leaves_a_board_without_frames(tables: tuple[Path, Path]) -> None:
    row = pl.read_parquet(tables[0]).row(0, named=True) | {"text": "x", "parsed": None}
    board = board_of(row)
    assert board.frames == "the clip cannot be read"
    assert pixels(storyboard([board], LAYOUT)).shape[0] > 100


def test_frames_that_look_alike_are_shown_once(tables: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    still = [FRAME, FRAME + 1, FRAME + 60, FRAME + 60]
    monkeypatch.setattr("evaluation.reports.storyboards.read_frames", lambda *_: still)
    row = pl.read_parquet(tables[0]).row(1, named=True) | {"text": "", "parsed": "A"}
    assert captions(board_of(row)) == ["frames 0 to 5", "frames 10 to 15"]


def test_right_wrong_and_latents_differ_in_more_than_colour() -> None:
    right, wrong = page(), page(False, parsed="B")
    assert has(right, "#0072b2") and not has(right, "#d55e00")
    assert has(wrong, "#0072b2") and has(wrong, "#d55e00")
    grey = [np.asarray(Image.fromarray(page).convert("1")) for page in (right, wrong)]
    assert (grey[0] != grey[1]).sum() > 100, "words and marks tell them apart without colour"
    assert has(page(text="<|latent_start|><|latent|><|latent_end|>"), "#aa4488")


def test_a_page_is_as_long_as_what_is_said_but_no_longer_than_six_lines_a_piece() -> None:
    shapes = [page(text=f"<reason>{'word ' * n}</reason>" * 3).shape for n in (1, 90, 9000)]
    assert shapes[0][0] < shapes[1][0] == shapes[2][0]
    assert len({shape[1] for shape in shapes}) == 1


def test_text_from_a_data_set_is_only_text() -> None:
    odd = "$x^{2$ \\frac <b>bold</b> {0} %s \ud800 \x00 中文"
    board = board_of(ROW | {"question": odd, "options": [odd] * 4, "text": odd})
    assert storyboard([board], LAYOUT, heading(1, odd, True))[:4] == b"\x89PNG"


# ---- the sheet


def test_wrapped_lines_fit_and_lose_nothing() -> None:
    text = "one two three four five six seven eight " + "w" * 200
    lines = wrapped(text, 80, 10)
    assert all(text_width(line, 10) <= 80 for line in lines) and len(lines) > 5
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrapped("first\nsecond", 500, 10) == ["first", "second"] and wrapped("", 80, 10) == []


def test_what_is_cut_ends_in_an_ellipsis() -> None:
    cut = wrapped("word " * 50, 80, 10, max_lines=2)
    assert len(cut) == 2 and cut[-1].endswith("…") and text_width(cut[-1], 10) <= 80


def test_an_image_keeps_its_shape_in_its_box() -> None:
    sheet = Sheet(50, 50)
    sheet.image(5, 5, 40, 40, np.full((10, 20, 3), 7, np.uint8))
    rows, columns = np.nonzero((pixels(sheet.png()) == 7).all(-1))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (40, 80), "two pixels a point"
