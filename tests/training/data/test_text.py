"""Control strings inside data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.dialogue import CONTROL, control_in


@given(st.sampled_from(CONTROL), st.text(), st.text())
def test_a_control_string_is_found_wherever_it_stands(control: str, before: str, after: str) -> None:
    assert control_in(before + control + after) is not None


@pytest.mark.parametrize("control", CONTROL)
def test_letter_case_does_not_hide_it(control: str) -> None:
    assert control_in(f"x {control.upper()} y") == control


@pytest.mark.parametrize("text", ["", "a < b and b > a", "<image>", "frame_1", "answer: A", "<ans>red</ans>", "<|x|>"])
def test_ordinary_text_and_data_markers_are_not_control(text: str) -> None:
    assert control_in(text) is None


def test_the_first_of_several_is_named() -> None:
    assert control_in("a </answer> b <|latent|>") == "</answer>"
