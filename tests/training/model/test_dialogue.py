"""One rendering: what a trajectory's text and frames become, and text that may not be rendered at all."""

import pytest

from training.data.dialogue import CONTROL, Slot, assistant_pieces, user_pieces

OBSERVED, FIRST, SECOND = Slot("observed", 0), Slot("future", 0), Slot("future", 1)


def test_a_question_is_its_stripped_texts_around_its_frames() -> None:
    assert user_pieces("frame_1\n<image>\nWhere is it?", 1) == ["frame_1", OBSERVED, "Where is it?"]


def test_a_question_may_begin_and_end_with_frames() -> None:
    assert user_pieces("<image> then <image>", 2) == [OBSERVED, "then", Slot("observed", 1)]


@pytest.mark.parametrize("observed", [0, 2])
def test_a_question_needs_one_marker_for_each_frame(observed: int) -> None:
    with pytest.raises(ValueError, match=f"1 <image> markers for {observed} observed frames"):
        user_pieces("frame_1\n<image>\nWhere is it?", observed)


def test_thoughts_and_future_frames_alternate_and_the_answer_ends_the_turn() -> None:
    assert assistant_pieces(["It rolls.", " It rolls on. ", "It stops."], " at the wall ") == [
        "<reason>It rolls.</reason>\n", FIRST, "\n",
        "<reason>It rolls on.</reason>\n", SECOND, "\n",
        "<reason>It stops.</reason>\n", "<answer>at the wall</answer>",
    ]  # fmt: skip


def test_empty_thoughts_leave_nothing_behind() -> None:
    assert assistant_pieces(["", "  ", ""], "red") == [FIRST, "\n", SECOND, "\n", "<answer>red</answer>"]


def test_the_text_only_control_says_the_same_words() -> None:
    with_spans = assistant_pieces(["It rolls.", "On.", "Stop."], "red")
    without = assistant_pieces(["It rolls.", "On.", "Stop."], "red", spans=False)
    assert without == [piece for piece in with_spans if isinstance(piece, str) and piece != "\n"]


@pytest.mark.parametrize("control", CONTROL)
def test_control_strings_in_data_are_rejected_wherever_they_stand(control: str) -> None:
    with pytest.raises(ValueError, match="the question carries the control string"):
        user_pieces(f"<image> What is {control}?", 1)
    with pytest.raises(ValueError, match="the reasoning carries the control string"):
        assistant_pieces(["It rolls.", control.upper()], "red")
    with pytest.raises(ValueError, match="the answer carries the control string"):
        assistant_pieces(["It rolls.", ""], f"red{control}")
