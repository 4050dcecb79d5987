"""Parsing a source row to a trajectory, or to the reason why it is none."""

import json
from dataclasses import asdict
from typing import Any

import dataframely as dy
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.assets.trajectories.shard_rows import table_of
from training.data.clip_names import ClipInterval, clip_interval
from training.data.rejection import RejectedRow
from training.data.row_fields import MAX_TEXT, source_counts
from training.data.trajectory import marked, parse_row
from training.data.trajectory_table import TrajectoryTable


def twiff_row(**changes: Any) -> dict[str, Any]:
    row = {
        "video": "AAAAAAAAAAA_0.mp4",
        "question": "frame_1\n<image>\nWhich colour is the marble on at step 2?\nA. red\nB. blue",
        "answer": "First it rolls on. <rimage> Then it rolls on. <rimage> <ans>red</ans>",
        "question_images_index": [1],
        "reasoning_images_index": [2, 3],
        "meta_data": {"classification": "Predictive", "start": "0:00:01.000", "end": "0:00:04.000"},
    }
    return row | changes


def conversation_row(**changes: Any) -> dict[str, Any]:
    row = {
        "video": "AAAAAAAAAAA_0.mp4",
        "conversations": [
            {"from": "system", "value": "ignored"},
            {"from": "human", "value": twiff_row()["question"]},
            {"from": "gpt", "value": "THOUGHT 1: First it rolls on.\n<image>\nTHOUGHT 2: Then it rolls on.\n<image>"},
        ],
        "image": [1],
        "reasoning_image": [2, 3],
        "answer": "red",
        "meta_data": twiff_row()["meta_data"],
    }
    return row | changes


def reason_of(row: dict[str, Any]) -> str:
    with pytest.raises(RejectedRow) as caught:
        parse_row(row, "train-00000", 7)
    assert caught.value.__notes__ == ["train-00000, row 7"]
    return caught.value.reason


def test_a_twiff_row_becomes_text_around_future_frames_and_a_short_answer() -> None:
    trajectory = parse_row(twiff_row(), "train-00000", 0)
    assert trajectory.reasoning == ("First it rolls on.", "Then it rolls on.", "")
    assert (trajectory.observed, trajectory.future) == ((1,), (2, 3))
    assert (trajectory.answer, trajectory.category) == ("red", "predictive")
    assert (trajectory.source, trajectory.start, trajectory.end) == ("train-00000", "0:00:01.000", "0:00:04.000")


def test_both_layouts_of_a_row_are_the_same_trajectory() -> None:
    assert parse_row(conversation_row(), "s", 0) == parse_row(twiff_row(), "s", 0)


def test_an_unconverted_twiff_turn_inside_conversations_is_read_as_twiff() -> None:
    turns = [{"from": "human", "value": twiff_row()["question"]}, {"from": "gpt", "value": twiff_row()["answer"]}]
    assert parse_row(conversation_row(conversations=turns, answer=None), "s", 0) == parse_row(twiff_row(), "s", 0)


def test_twiffs_own_training_files_are_the_same_trajectory() -> None:
    turns = [{"from": "human", "value": twiff_row()["question"]}, {"from": "gpt", "value": twiff_row()["answer"]}]
    row = {"frames": [1], "recon_frames": [2, 3], "conversations": turns}
    row |= {name: twiff_row()[name] for name in ("video", "meta_data")}
    assert parse_row(row, "s", 0) == parse_row(twiff_row(), "s", 0)
    assert reason_of(row | {"recon_frames": [2, 9]}) == "key frame outside 1..8"
    assert reason_of(row | {"frames": None}) == "missing field"


@pytest.mark.parametrize(
    ("row", "counts"),
    [
        ({}, (None, None)),
        ({"gain": 3}, (None, None)),
        ({"correct_in_8_base": 2, "correct_in_8_hint": 8, "gain": 6}, (2, 8)),
        ({"correct_in_8_base": 6, "correct_in_8_hint": 2}, (6, 2)),
        ({"correct_in_8_base": 2.0, "correct_in_8_hint": 8.0, "gain": float("nan")}, (2, 8)),
        ({"correct_in_8_base": float("nan"), "correct_in_8_hint": None}, (None, None)),
    ],
)
def test_the_counts_that_a_selected_row_brings(row: dict[str, Any], counts: tuple[Any, Any]) -> None:
    assert source_counts(row) == counts


@pytest.mark.parametrize(
    "row",
    [
        {"correct_in_8_base": 2, "correct_in_8_hint": 9},
        {"correct_in_8_base": -1, "correct_in_8_hint": 8},
        {"correct_in_8_base": 2},
        {"correct_in_8_base": 2, "correct_in_8_hint": 8, "gain": 5},
        {"correct_in_8_base": 2, "correct_in_8_hint": 2.5},
        {"correct_in_8_base": "2", "correct_in_8_hint": "8"},
        {"correct_in_8_base": True, "correct_in_8_hint": 8},
        {"correct_in_8_base": float("inf"), "correct_in_8_hint": 8},
    ],
)
def test_counts_that_cannot_be_are_a_rejected_row(row: dict[str, Any]) -> None:
    with pytest.raises(RejectedRow) as caught:
        source_counts(row)
    assert caught.value.reason == "impossible counts"


@pytest.mark.parametrize(
    ("video", "start", "end", "interval"),
    [
        ("-0AAhXT99Zw-0:04:09.165-0:04:57.213.mp4", None, None, ("-0AAhXT99Zw", 249.165, 297.213)),
        ("-0AAhXT99Zw-0:04:09.165-0:04:57.213", "0", "1", ("-0AAhXT99Zw", 249.165, 297.213)),
        ("part/_-AAhXT99Zw_12.mp4", "0:00:01.5", "1:00:04", ("_-AAhXT99Zw", 1.5, 3604.0)),
        ("AAAAAAAAAAA.mkv", "59.5", "1:01", ("AAAAAAAAAAA", 59.5, 61.0)),
        ("AAAAAAAAAAA_0.mp4", "0:00:01", None, ("AAAAAAAAAAA", 1.0, None)),
        ("AAAAAAAAAAA_0.mp4", "0:00:05", "0:00:02", ("AAAAAAAAAAA", None, None)),
        ("AAAAAAAAAAA_0.mp4", "nan", "-1", ("AAAAAAAAAAA", None, None)),
        ("bigbuckbunny.mp4", "0:00:01", "0:00:02", (None, 1.0, 2.0)),
        ("bikes.mp4", None, None, (None, None, None)),
        ("", None, None, (None, None, None)),
    ],
)
def test_a_clip_is_an_interval_of_a_video(video: str, start: Any, end: Any, interval: tuple[Any, ...]) -> None:
    assert clip_interval(video, start, end) == ClipInterval(*interval)


@given(st.text(), st.none() | st.text(), st.none() | st.text(alphabet="0123456789:."))
def test_whatever_a_clip_is_called_its_interval_is_one_or_unknown(video: str, start: Any, end: Any) -> None:
    interval = clip_interval(video, start, end)
    assert interval.start is None or interval.end is None or interval.start < interval.end


def test_text_after_the_last_future_frame_is_the_last_piece() -> None:
    trajectory = parse_row(twiff_row(answer="<rimage>\n<rimage> So it is red. <ans> red </ans>\n"), "s", 0)
    assert trajectory.reasoning == ("", "", "So it is red.")
    assert trajectory.answer == "red"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"video": None}, "missing field"),
        ({"video": ""}, "malformed field"),
        ({"answer": 5}, "malformed field"),
        ({"question_images_index": "[1]"}, "malformed field"),
        ({"question": "a\0b <image>"}, "malformed field"),
        ({"meta_data": "Predictive"}, "malformed field"),
        ({"question": "frame_1\n<image>\n"}, "empty question"),
        ({"answer": " "}, "empty answer"),
        ({"answer": "x <rimage> y <rimage> <ans> </ans>"}, "empty answer"),
        ({"answer": "x <rimage> y <rimage> red"}, "malformed answer"),
        ({"answer": "x <rimage> y <rimage> <ans>red</ans> or not"}, "malformed answer"),
        ({"reasoning_images_index": [0, 2]}, "key frame outside 1..8"),
        ({"reasoning_images_index": [2, 9]}, "key frame outside 1..8"),
        ({"reasoning_images_index": [2, 2.5]}, "key frame is not an integer"),
        ({"reasoning_images_index": [2, None]}, "key frame is not an integer"),
        ({"question_images_index": [True]}, "key frame is not an integer"),
        ({"reasoning_images_index": []}, "no key frames"),
        ({"reasoning_images_index": [2]}, "placeholder mismatch"),
        ({"question_images_index": [1, 1]}, "placeholder mismatch"),
        ({"question": "frame_1\n<image>\nframe_2\n<image>\nWhat?"}, "placeholder mismatch"),
        ({"question": "What <IMAGE> now?"}, "placeholder mismatch"),
        ({"question": "x" * (MAX_TEXT + 1)}, "text too long"),
        ({"answer": "<ans>" * 200_000}, "text too long"),
        ({"question": "frame_1\n<image>\nWhat <rimage> now?"}, "placeholder mismatch"),
        ({"answer": "<ans>no</ans> <rimage> <rimage> <ans>red</ans>"}, "placeholder mismatch"),
        ({"question_images_index": [2]}, "future not after observed"),
        ({"answer": "x <|latent_start|> <rimage> y <rimage> <ans>red</ans>"}, "control token in text"),
        ({"question": "frame_1\n<image>\nSay <answer>A</answer>"}, "control token in text"),
        ({"answer": "x <rimage> y <rimage> <ans>red<|im_end|></ans>"}, "control token in text"),
        ({"question": "frame_1\n<image>\nHalf of \ud83d?"}, "malformed field"),
        ({"meta_data": {"start": ["0:00:01"]}}, "malformed field"),
        ({"meta_data": {"start": "0\0"}}, "malformed field"),
    ],
)
def test_a_bad_twiff_row_is_rejected_with_its_reason(changes: dict[str, Any], reason: str) -> None:
    assert reason_of(twiff_row(**changes)) == reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"conversations": "text"}, "malformed field"),
        ({"conversations": [{"from": "human", "value": "x"}]}, "missing field"),
        ({"answer": None}, "missing field"),
        ({"image": None}, "missing field"),
        ({"reasoning_image": ["a.png", "b.png"]}, "key frame is not an integer"),
    ],
)
def test_a_bad_conversation_row_is_rejected_with_its_reason(changes: dict[str, Any], reason: str) -> None:
    assert reason_of(conversation_row(**changes)) == reason


@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: st.one_of(st.none(), st.integers(), st.text(), st.lists(st.integers(-2, 10)), st.lists(st.floats()))
            for name in (*twiff_row(), "conversations")
        },
    )
)
def test_whatever_a_row_holds_it_is_a_trajectory_or_a_rejected_row(changes: dict[str, Any]) -> None:
    try:
        trajectory = parse_row(twiff_row(**changes), "s", 0)
    except RejectedRow:
        return
    table_of([trajectory])  # what is accepted keeps the table's contract


@pytest.mark.parametrize("observed", [[1], [1, 2, 3]])
def test_a_plain_question_is_the_marked_one_with_its_frames_first(observed: list[int]) -> None:
    frames = "".join(f"frame_{k}\n<image>\n" for k in range(1, len(observed) + 1))
    changes = {"question_images_index": observed, "reasoning_images_index": [5, 6]}
    plain, with_markers = (parse_row(twiff_row(question=f"{m}What next?", **changes), "s", 0) for m in ("", frames))
    assert plain == with_markers
    assert plain.question == f"{frames}What next?"


def test_a_plain_human_turn_is_the_marked_one() -> None:
    plain = conversation_row()
    plain["conversations"][1]["value"] = plain["conversations"][1]["value"].removeprefix("frame_1\n<image>\n")
    assert parse_row(plain, "s", 0) == parse_row(conversation_row(), "s", 0)


def test_markers_are_added_to_a_question_that_has_none() -> None:
    assert marked("Q", 2) == "frame_1\n<image>\nframe_2\n<image>\nQ"
    assert marked("Q <image>", 2) == "Q <image>"
    assert marked("Q", 0) == "Q"


def test_the_row_id_depends_on_the_content_and_not_on_the_shard() -> None:
    row_id = parse_row(twiff_row(), "s", 0).row_id
    assert parse_row(twiff_row(), "other", 5).row_id == row_id
    assert parse_row(twiff_row(reasoning_images_index=[2, 4]), "s", 0).row_id != row_id
    assert parse_row(twiff_row(video="other.mp4"), "s", 0).row_id != row_id


@pytest.mark.parametrize(
    ("label", "category"),
    [
        ("Instructional", "instructional"),
        (" INSTRUCT", "instructional"),
        ("predict the outcome", "predictive"),
        ("camera motion", "camera"),
        ("moving camera", "other"),
        ("weather", "other"),
        (None, "other"),
        (7, "other"),
    ],
)
def test_a_category_is_told_by_how_its_label_begins(label: Any, category: str) -> None:
    assert parse_row(twiff_row(meta_data={"classification": label}), "s", 0).category == category


def test_trajectories_survive_the_table() -> None:
    trajectories = [parse_row(twiff_row(), "s", 0), parse_row(twiff_row(video="b.mp4"), "s", 1)]
    assert table_of(trajectories).to_dicts() == json.loads(json.dumps([asdict(t) for t in trajectories]))
    assert table_of([]).is_empty()


def test_the_table_refuses_a_future_frame_that_was_observed() -> None:
    table = table_of([parse_row(twiff_row(), "s", 0)]).with_columns(observed=pl.lit([3], dtype=pl.List(pl.Int64)))
    with pytest.raises(dy.exc.ValidationError, match="future_follows_observed"):
        TrajectoryTable.validate(table)
