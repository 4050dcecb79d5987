"""Records in every layout read as the same row; what cannot be rendered says what was found."""

from pathlib import Path
from typing import Any

import pytest

from training.data.records import load_records, name_of, read_prompt, read_record
from training.data.trajectory import marked

CLIP = Path(__file__).parents[2] / "data" / "parity" / "clip.mp4"
QUESTION = "frame_1\n<image>\nWhere is the ball?"
TURN = "THOUGHT 0: It rolls.\n<image>\nTHOUGHT 1: On.\n<image>\n"
TWIFF_TURN = TURN.replace("<image>", "<rimage>") + "<ans> right </ans>"


def conversation(question: str = QUESTION, turn: str = TURN, **fields: Any) -> dict[str, Any]:
    turns = [("system", "ignored"), ("human", question), ("gpt", turn)]
    return {"video": CLIP.name, "conversations": [{"from": who, "value": text} for who, text in turns]} | fields


RELEASE = conversation(image=[1], reasoning_image=[5, 6], answer="right", cot="")
LAYOUTS = {
    "the release's": RELEASE,
    "the release's readme": RELEASE | {"video": [CLIP.name]},
    "TwiFF's training files": conversation(turn=TWIFF_TURN, frames=[1], recon_frames=[5, 6]),
    "nulls for what a table lacks": conversation(
        turn=TWIFF_TURN, image=None, frames=[1], reasoning_image=None, recon_frames=[5, 6], answer=None
    ),
    "TwiFF's parquet": {
        "video": CLIP.name,
        "question": QUESTION,
        "answer": TWIFF_TURN,
        "question_images_index": [1],
        "reasoning_images_index": [5, 6],
    },
    "our tables": {
        "video": "elsewhere.mp4",
        "path": str(CLIP),
        "question": QUESTION,
        "reasoning": ["It rolls.", "On.", ""],
        "answer": "right",
        "observed": [1],
        "future": [5, 6],
        "frames": None,
    },
}
PROBLEMS = {
    "the release's readme": "malformed field: video is list, not text",
    "nulls for what a table lacks": "missing field: image is absent",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_same_row(layout: str) -> None:
    record = read_record(LAYOUTS[layout], 3, CLIP.parent)
    row = record.row | {"answer": record.row["answer"].strip()}
    assert row == {
        "row_id": "3",
        "question": QUESTION,
        "reasoning": ("It rolls.", "On.", ""),
        "answer": "right",
        "observed": (1,),
        "future": (5, 6),
        "frames": [],
        "path": str(CLIP),
        "frame_count": 64,
        "reader": "seek",
    }
    assert record.problem == PROBLEMS.get(layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_prompt_is_the_question_and_the_observed_frames_of_any_layout(layout: str) -> None:
    row = read_prompt(LAYOUTS[layout], 0, CLIP.parent).row
    assert (row["question"], row["observed"], row["future"]) == (QUESTION, (1,), ())


@pytest.mark.parametrize(
    ("value", "question", "observed"),
    [
        ({"question": "Why?"}, "Why?", ()),
        ({"video": str(CLIP), "frames": [2, 4], "question": "Why?"}, marked("Why?", 2), (2, 4)),
        ({"video": str(CLIP), "image": [2], "question": "<image> Why?"}, "<image> Why?", (2,)),
        ({"conversations": [{"from": "human", "value": "Why?"}]}, "Why?", ()),
    ],
)
def test_plain_questions_are_prompts(value: dict[str, Any], question: str, observed: tuple[int, ...]) -> None:
    row = read_prompt(value, 0, Path()).row
    assert (row["question"], row["observed"]) == (question, observed)


def test_frames_of_our_own_questions_are_frame_numbers() -> None:
    row = {"video": CLIP.name, "question": "frame_1\n<image>\nframe_2\n<image>\nQ", "frames": [0, 63], "observed": []}
    record = read_record(row | {"reasoning": [""], "future": [], "answer": "A"}, 0, CLIP.parent)
    assert (record.row["frames"], record.frame_numbers("observed")) == ([0, 63], [0, 63])
    assert record.frame_numbers("future") == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"reasoning_image": [6, 5]}, None),
        ({"image": [6]}, "future not after observed: observed [6], future [5, 6]"),
        ({"reasoning_image": [5, 5]}, None),
        ({"answer": ""}, "empty answer: nothing inside the answer"),
        ({"answer": None}, "missing field: answer is absent"),
        ({"meta_data": 3}, "malformed field: meta_data is int, not a struct"),
    ],
)
def test_what_the_pull_would_reject_is_read_with_the_reason(changes: dict[str, Any], problem: str | None) -> None:
    record = read_record(RELEASE | changes, 0, CLIP.parent)
    assert record.problem == problem
    assert list(record.row["future"]) == (RELEASE | changes)["reasoning_image"]


@pytest.mark.parametrize("future", [{}, {"reasoning_image": None}, {"reasoning_image": []}])
@pytest.mark.parametrize("answer", [{}, {"answer": "right"}])
def test_a_record_without_future_frames_is_read(future: dict[str, Any], answer: dict[str, Any]) -> None:
    record = read_record(conversation(turn="So it is.", image=[1]) | future | answer, 0, CLIP.parent)
    assert (record.row["reasoning"], record.row["future"]) == (("So it is.",), ())
    assert record.row["answer"] == answer.get("answer", "")
    assert record.problem is not None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "found int"),
        ({}, "question is absent"),
        (RELEASE | {"image": [0]}, "image holds 0"),
        (RELEASE | {"image": 1}, "image is int, not a list"),
        (RELEASE | {"image": ["1"]}, "image holds '1'"),
        (RELEASE | {"image": [True]}, "image holds True"),
        (RELEASE | {"reasoning_image": [5]}, "2 future markers for 1 future frames"),
        (RELEASE | {"reasoning_image": []}, "2 future markers for 0 future frames"),
        (RELEASE | {"video": "gone.mp4"}, "there is no clip"),
        (RELEASE | {"video": "records.json"}, "cannot be read as a video"),
        (RELEASE | {"video": "x" * 300}, "cannot be read as a video"),
        (RELEASE | {"video": None}, "video is absent"),
        (RELEASE | {"answer": 5}, "answer is int, not text"),
        (RELEASE | {"answer": "\ud800"}, "lone surrogate"),
        (RELEASE | {"conversations": "Q"}, "not a list of turns"),
        (RELEASE | {"conversations": RELEASE["conversations"][:2]}, "no gpt turn"),
        (LAYOUTS["our tables"] | {"reasoning": ["a", 3, "b"]}, "reasoning is int, not text"),
        (LAYOUTS["our tables"] | {"frames": [-1]}, "not a list of frame numbers"),
    ],
)
def test_what_cannot_be_rendered_is_an_error_with_the_value(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_record(value, 0, CLIP.parent)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"id": "a"}, "a"),
        ({"id": 7}, 7),
        ({"id": ""}, 4),
        ({"id": None, "row_id": "b"}, "b"),
        ({"id": [1]}, 4),
        ("text", 4),
    ],
)
def test_a_record_is_called_by_its_id_else_by_its_number(value: Any, name: str | int) -> None:
    assert name_of(value, 4) == name


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('[{"id": 1}, {"id": 2}]', [{"id": 1}, {"id": 2}]),
        ('{"id": 1}', [{"id": 1}]),
        ('{\n "id": 1\n}\n', [{"id": 1}]),
        ('{"id": 1}\n', [{"id": 1}]),
        ('\ufeff{"id": 1}\r\n\r\n{"id": 2}\n', [{"id": 1}, {"id": 2}]),
        ('{"id": "a\u2028b"}\n[3]\n', [{"id": "a\u2028b"}, [3]]),
    ],
)
def test_a_file_holds_a_list_or_one_record_or_one_a_line(text: str, values: list[Any], tmp_path: Path) -> None:
    (tmp_path / "records.json").write_bytes(text.encode())
    assert load_records(tmp_path / "records.json") == values


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no list of records"),
        (b"[]", "holds no records"),
        (b'{"id": 1}\n{"id": \n', "line 2: "),
        (b'{\n"id" 1\n}', "line 2 column 6"),
        (b"\xff\xfe", "no list of records"),
        (b"[" * 100_000, "no list of records"),
    ],
)
def test_a_file_that_holds_no_records_says_so(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "records.json").write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        load_records(tmp_path / "records.json")
    assert str(tmp_path / "records.json") in str(caught.value)
