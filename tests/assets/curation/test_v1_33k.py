"""V1-33K's multiple choice becomes RL rows that can be graded and shown; what cannot is quarantined with a reason."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets.curation.v1_33k import Choices, choices, frame_numbers
from tests.footage import FOOTAGE
from training.data.dialogue import Slot, user_pieces
from training.data.video import read_frames
from training.grading.grade import grade_by_rule

OPTIONS = {"A": "the bus stops", "B": "a man sits down", "C": "it rains", "D": "nothing"}
NO_BENCHMARK = pl.DataFrame(schema={"video": pl.String, "question": pl.String})


def record(video: str = "bikes.mp4", **changes: Any) -> dict[str, Any]:
    mc_qa = {"Question": f"What comes next in {video}?", "Options": OPTIONS, "Answer": "B", "question_type": "hop1"}
    return {"video_path": f"video_dataset/part/{video}", "caption": "…", "mc_qa": mc_qa | changes}


def read(folder: Path, records: list[Any], rows: int = 100, benchmark: pl.DataFrame = NO_BENCHMARK) -> Choices:
    videos = folder / "first_part_video" / "part"
    videos.mkdir(parents=True, exist_ok=True)
    for name in ("bikes.mp4", "bigbuckbunny.mp4"):
        shutil.copy(FOOTAGE / name, videos)
    (videos / "broken.mp4").write_bytes(b"no video")
    (folder / "v1.json").write_text(json.dumps(records))
    return choices([folder / "v1.json"], [folder / "first_part_video"], rows, 0, benchmark)


def test_a_row_can_be_shown_and_graded(tmp_path: Path) -> None:
    (row,) = read(tmp_path, [record()]).rows.iter_rows(named=True)
    assert row["frames"] == frame_numbers(250, 16) and len(row["frames"]) == 16
    slots = [piece for piece in user_pieces(row["question"], len(row["frames"])) if isinstance(piece, Slot)]
    frames = read_frames(row["path"], row["frames"], row["reader"])
    assert len(slots) == len(frames) == 16
    assert grade_by_rule(row["question"], row["answer"], "<answer>B</answer>", "strict") == "correct"
    assert grade_by_rule(row["question"], row["answer"], "<answer>a man sits down</answer>") == "correct"
    assert grade_by_rule(row["question"], row["answer"], "<answer>C</answer>", "strict") == "incorrect"
    assert (row["future"], row["reasoning"], row["hop"]) == ([], [""], 1)


INLINE = "What comes next? A) the bus stops B) a man sits down C) it rains D) nothing"
FORMS: dict[str, dict[str, Any]] = {
    "options as a list": {"Options": list(OPTIONS.values())},
    "options as lettered lines": {"Options": [f"{letter}. {text}" for letter, text in OPTIONS.items()]},
    "options in the question": {"Question": INLINE, "Options": None},
    "options in both": {"Question": INLINE},
    "the answer's text": {"Answer": "A man sits down."},
    "letter and text": {"Answer": "B) a man sits down"},
    "a small letter": {"Answer": "(b)"},
    "a hop in words": {"question_type": "2-hop"},
    "a hop as a number": {"question_type": None, "hop": 2},
}


@pytest.mark.parametrize("changes", FORMS.values(), ids=FORMS.keys())
def test_forms_that_people_write_are_read(tmp_path: Path, changes: dict[str, Any]) -> None:
    (row,) = read(tmp_path, [record(**changes)]).rows.iter_rows(named=True)
    assert row["answer"] == "B" and row["question"].endswith("\nB. a man sits down\nC. it rains\nD. nothing")
    assert row["question"].count("it rains") == 1


def test_a_list_of_questions_a_json_text_and_small_names_are_read(tmp_path: Path) -> None:
    first, second = record()["mc_qa"], record(Question="And then?")["mc_qa"]
    listed = {**record(), "mc_qa": [first, second]}
    small = {name.lower(): value for name, value in first.items()} | {"question": "So?"}
    as_text = {**record(), "mc_qa": json.dumps(small)}
    result = read(tmp_path, [listed, as_text])
    assert result.rows.height == 3 and result.report["read"] == 3


BROKEN: dict[str, Any] = {
    "hop is missing": record(question_type=None),
    "not 1 or 2 hops": record(question_type="hop5"),
    "empty question": record(Question=" "),
    "malformed options": record(Options={"A": "x", "C": "y"}),
    "answer is none of the options": record(Answer="E"),
    "empty answer": record(Answer=None),
    "control token in text": record(Question="What? <answer>B</answer>"),
    "no multiple-choice question": {"video_path": "bikes.mp4"},
    "unreadable row": ["not", "a", "row"],
    "malformed field": {**record(), "video_path": 7},
    "path outside clip root": {**record(), "video_path": "video_dataset/../../etc/passwd"},
    "missing clip": record("missing.mp4"),
    "unreadable video": record("broken.mp4"),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_what_cannot_be_read_is_quarantined_with_its_reason_and_the_rest_stays(tmp_path: Path, reason: str) -> None:
    result = read(tmp_path, [record(), BROKEN[reason]])
    assert result.rows.height == 1
    assert result.quarantine.select("source", "row", "reason").rows() == [("v1.json", 2, reason)]


def test_a_line_that_is_no_json_does_not_lose_the_others(tmp_path: Path) -> None:
    read(tmp_path, [])
    lines = [json.dumps(record()), "{broken", json.dumps(record("bigbuckbunny.mp4"))]
    (tmp_path / "v1.jsonl").write_text("\n".join(lines))
    row = {"video_path": "bikes.mp4", "mc_qa": json.dumps(record()["mc_qa"])}
    pl.DataFrame([row]).write_parquet(tmp_path / "v1.parquet")
    files = [tmp_path / "v1.jsonl", tmp_path / "v1.parquet"]
    roots = [tmp_path / "first_part_video", tmp_path / "first_part_video" / "part"]
    result = choices(files, roots, 10, 0, NO_BENCHMARK)
    assert result.rows.height == 3 and result.quarantine["reason"].to_list() == ["unreadable row"]


def test_futurebenchs_videos_and_questions_are_left_out(tmp_path: Path) -> None:
    benchmark = pl.DataFrame({"video": ["video_dataset/else/bikes.mp4", None], "question": [None, "What comes  NEXT?"]})
    records = [record(), record("bigbuckbunny.mp4", Question="What comes next?"), record("bigbuckbunny.mp4")]
    result = read(tmp_path, records, benchmark=benchmark)
    assert result.rows["video"].to_list() == ["part/bigbuckbunny.mp4"]
    assert set(result.quarantine["reason"]) == {"video of FutureBench", "question of FutureBench"}


def test_rows_are_sampled_with_a_seed_and_a_shortage_is_reported(tmp_path: Path) -> None:
    records = [record(Question=f"What is event {i}?") for i in range(12)] + [record("missing.mp4")]
    sample = read(tmp_path, records, rows=5)
    again = read(tmp_path, records[::-1], rows=5)
    assert sample.rows["row_id"].to_list() == again.rows["row_id"].to_list() and sample.report["short"] == 0
    everything = read(tmp_path, [*records, records[0]], rows=20).report
    assert (everything["rows"], everything["short"]) == (12, 8)
    assert everything["quarantined_by_reason"] == {"repeated row": 1, "missing clip": 1}


@pytest.mark.parametrize(("count", "numbers"), [(1, [0]), (3, [0, 1, 2]), (31, list(range(0, 31, 2)))])
def test_frames_are_evenly_spaced_from_the_first_to_the_last(count: int, numbers: list[int]) -> None:
    assert frame_numbers(count, 16) == numbers


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just("[" * 9999),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.sampled_from(["Question", "Options"]), values),
    max_leaves=4,
)


@given(
    st.lists(
        st.builds(
            lambda fields, changes: record(**changes) | fields,
            st.dictionaries(st.sampled_from(["mc_qa", "video_path", "hop"]), VALUES),
            st.dictionaries(st.sampled_from(["Question", "Options", "Answer", "question_type"]), VALUES),
        )
        | VALUES
    )
)
def test_whatever_a_row_holds_it_is_rejected_with_its_reason(made: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "v1.json").write_text(json.dumps(made))
        result = choices([Path(folder) / "v1.json"], [Path(folder)], 100, 0, NO_BENCHMARK)
    assert result.rows.is_empty() and result.report["read"] == result.quarantine.height >= len(made)
