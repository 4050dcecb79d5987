"""Files of training rows: every layout gives the same rows, a bad record is named and left out, no clip is opened."""

import gzip
import json
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.fuzz.mutants import altered, damaged
from tests.training.data.test_records import CLIP, LAYOUTS, QUESTION, RELEASE, conversation
from training.data.row_clips import clip_path, with_clip
from training.data.training_set import read_training_set
from training.runtime.errors import PermanentError

ROW = {
    "question": QUESTION, "reasoning": ("It rolls.", "On.", ""), "answer": "right", "observed": (1,), "future": (5, 6),
    "frames": [],
}  # fmt: skip


def written(folder: Path, name: str, values: list[Any]) -> Path:
    """The records in a file of the kind that its name says."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if name.endswith(".parquet"):
        pl.DataFrame(values, strict=False).write_parquet(path)
    elif name.endswith(".json"):
        path.write_text(json.dumps(values))
    else:
        data = "".join(json.dumps(value) + "\n" for value in values).encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("name", ["rows.parquet", "rows.json", "rows.jsonl", "rows.jsonl.gz"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_in_every_kind_of_file_is_the_same_row(name: str, layout: str, tmp_path: Path) -> None:
    record = LAYOUTS[layout] | ({"path": None, "video": CLIP.name} if layout == "our tables" else {})
    training_set = read_training_set(written(tmp_path, name, [record]), CLIP.parent)
    assert not training_set.rejected
    (row,) = training_set.rows
    assert {field: row[field] for field in ROW} | {"answer": row["answer"].strip()} == ROW
    probed = with_clip(row)
    assert (probed["path"], probed["frame_count"], probed["reader"]) == (str(CLIP), 64, "seek")
    assert with_clip(probed) == probed, "probed once"


def test_bad_records_are_named_and_the_others_stay(tmp_path: Path) -> None:
    values = [
        RELEASE | {"id": "good"},
        RELEASE | {"id": "index", "image": [9]},
        RELEASE | {"id": "silent", "answer": " "},
        RELEASE | {"id": "control", "answer": "<answer>"},
        conversation("no marker but <image><image>", image=[1], reasoning_image=[5, 6], answer="a"),
        {"video": CLIP.name},
        [3],
        RELEASE | {"id": "good"},
        {"id": "blank", "video": CLIP.name, "question": "frame_1\n", "observed": [1], "answer": "a"},
    ]
    path = written(tmp_path, "rows.jsonl", values)
    path.write_bytes(path.read_bytes() + b"{half\n")
    training_set = read_training_set(path, CLIP.parent)
    assert [row["row_id"] for row in training_set.rows] == ["good", "good#2"], "ids are unique"
    assert [(r["row_id"], r["reason"]) for r in training_set.rejected] == [
        ("index", "rows.jsonl, row 1: key frame outside 1..8: image holds 9"),
        ("silent", "rows.jsonl, row 2: empty answer: training needs one"),
        ("control", "rows.jsonl, row 3: the answer carries the control string <answer>: reject the row, it cannot be "
                    "rendered"),
        ("4", "rows.jsonl, row 4: the question has 2 <image> markers for 1 observed frames"),
        ("5", "rows.jsonl, row 5: missing field: question is absent"),
        ("6", "rows.jsonl, row 6: unreadable row: line 7 holds a list, not a record"),
        ("blank", "rows.jsonl, row 8: empty question: training needs one"),
        ("9", training_set.rejected[-1]["reason"]),
    ]  # fmt: skip
    assert "rows.jsonl, row 9: unreadable row: line 10: " in training_set.rejected[-1]["reason"]


def test_a_table_of_ours_with_holes_is_read_as_records(tmp_path: Path) -> None:
    row = {"row_id": "a", **ROW, "path": str(CLIP), "frame_count": None, "reader": "seek"}
    training_set = read_training_set(written(tmp_path, "rows.parquet", [row, row | {"answer": None}]), None)
    assert [with_clip(row)["frame_count"] for row in training_set.rows] == [64]
    assert [r["reason"] for r in training_set.rejected] == ["rows.parquet, row 1: empty answer: training needs one"]


@pytest.mark.parametrize(
    ("record", "frames"),
    [
        ({"question": "Why?", "answer": "So."}, (0, 0)),
        ({"video": CLIP.name, "frames": [2, 4], "question": "Why?", "answer": "So."}, (2, 0)),
        ({"video": CLIP.name, "observed": [1], "future": [5], "question": "Why?", "reasoning": ["a", ""],
          "answer": "So."}, (1, 1)),
    ],
)  # fmt: skip
def test_plain_records_do(record: dict[str, Any], frames: tuple[int, int], tmp_path: Path) -> None:
    (row,) = read_training_set(written(tmp_path, "rows.jsonl", [record]), CLIP.parent).rows
    assert (len(row["observed"]), len(row["future"])) == frames
    assert row["question"].count("<image>") == frames[0] and row["question"].endswith("Why?")


def test_clips_lie_relative_to_the_file_or_in_a_folder_and_never_outside_it(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    (clips / "deep").mkdir(parents=True)
    (clips / "deep" / "a.mp4").write_bytes(CLIP.read_bytes())
    (tmp_path / "outside.mp4").write_bytes(CLIP.read_bytes())
    (clips / "link.mp4").symlink_to(tmp_path / "outside.mp4")
    names = ["deep/a.mp4", "../outside.mp4", str(tmp_path / "outside.mp4"), "link.mp4", "gone.mp4"]
    path = written(tmp_path, "rows.jsonl", [RELEASE | {"video": name} for name in names])
    rows = read_training_set(path, clips).rows
    assert with_clip(rows[0])["path"] == str(clips / "deep" / "a.mp4")
    for row, reason in zip(rows[1:], ["outside"] * 3 + ["missing clip"], strict=True):
        with pytest.raises(ValueError, match=reason):
            with_clip(row)
    path = written(clips, "rows.jsonl", [RELEASE | {"video": name} for name in names])
    assert with_clip(read_training_set(path, None).rows[0])["path"] == str(clips / "deep" / "a.mp4")


def test_a_clip_goes_by_its_other_name(tmp_path: Path) -> None:
    (tmp_path / "AAAAAAAAAAA-0:00:01.000-0:00:03.000.mp4").write_bytes(CLIP.read_bytes())
    meta = {"start": "0:00:01.000", "end": "0:00:03.000"}
    record = RELEASE | {"video": "AAAAAAAAAAA_0.mp4", "meta_data": meta}
    (row,) = read_training_set(written(tmp_path / "rows", "rows.json", [record]), tmp_path).rows
    assert with_clip(row)["frame_count"] == 64


def test_no_clip_is_opened_before_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (row,) = read_training_set(written(tmp_path, "rows.json", [RELEASE | {"video": "broken.mp4"}]), None).rows
    with pytest.raises(ValueError, match=r"broken\.mp4 cannot be read as a video"):
        with_clip(row)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("rows.json", [RELEASE | {"image": [9]}, 3], r"none of 2 rows is usable; the first: rows.json, row 0: key"),
        ("rows.json", [], "holds no rows: curate first"),
        ("rows.json", [RELEASE | {"video": "gone.mp4"}] * 2, "not one clip of its 2 rows is there"),
        ("rows.parquet", [{"text": "a"}], "neither a column `question` nor `conversations`"),
        ("rows.csv", [RELEASE], r"a training set is a file \*.parquet, \*.jsonl"),
    ],
)
def test_a_file_without_a_usable_row_is_refused(name: str, values: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match=message) as caught:
        read_training_set(written(tmp_path, name, values), None)
    assert str(tmp_path / name) in str(caught.value)


def test_what_is_no_file_or_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    for name in ("rows.parquet", "gone.parquet", "gone.jsonl"):
        with pytest.raises(PermanentError, match=name):
            read_training_set(tmp_path / name, None)
    with pytest.raises(PermanentError, match="no folder"):
        read_training_set(tmp_path / "rows.parquet", tmp_path / "gone")


def test_no_record_ends_the_reading(tmp_path: Path) -> None:
    rng = random.Random(0)
    mutants = [altered(record, rng) for record in LAYOUTS.values() for _ in range(80)]
    lines = [json.dumps(mutant).encode() for mutant in [RELEASE, *mutants]]
    lines += [damaged(line, rng).replace(b"\n", b" ") or b"{" for line in lines[::4]]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    training_set = read_training_set(tmp_path / "rows.jsonl", CLIP.parent)
    rows, rejected = training_set.rows, training_set.rejected
    assert len(rows) + len(rejected) == sum(bool(line.strip()) for line in lines)
    assert len({*(row["row_id"] for row in rows), *(record["row_id"] for record in rejected)}) == len(lines)
    json.dumps([rejected, [row["row_id"] for row in rows]], ensure_ascii=False).encode()
    for row in rows:
        with suppress(ValueError):
            clip_path(row)
