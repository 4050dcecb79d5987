"""What a judge that thinks or talks says in the end."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.grading.replies import LONGEST, last_object
from training.runtime.project import PROJECT

RIGHT, WRONG = '{"verdict": "correct"}', '{"verdict": "incorrect"}'
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3))
ADVERSARIAL = ("{", '{"', '{"a":', '{"a":[', '{"a":[{},', '{"a":"\\', '{"a":1', "{}", '"', '{"a":"' + "{" * 50)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RIGHT, RIGHT),
        (f"<think>\nfirst {WRONG}\n</think>\n\n{RIGHT}", RIGHT),
        (f"Let me {{see}}: {WRONG} - no, rather {RIGHT}.", RIGHT),
        (f"```json\n{RIGHT}\n```", RIGHT),
        (f"It's \"like {{ this: {RIGHT}", RIGHT),
        ('{"reasoning": "it says {\\"verdict\\": 1}", "score": [4, 5]} Done }', None),
        (f"<think>{RIGHT}</think> I cannot say", ""),
        (f"<think>perhaps {WRONG}", ""),
        (f"{RIGHT[:-1]}", ""),
        ("", ""),
        ("[1, 2]", ""),
    ],
)
def test_the_last_object_after_the_thoughts_is_what_counts(text: str, expected: str | None) -> None:
    assert last_object(text) == (text.partition(" Done")[0] if expected is None else expected)


@given(
    st.text(st.characters(exclude_characters="{")), st.dictionaries(st.text(), VALUES), st.text("} \n`.abc", max_size=9)
)
def test_any_object_after_any_talk_is_read(before: str, value: dict[str, object], after: str) -> None:
    document = json.dumps(value)
    assert last_object(before + document + after) == document or "</think>" in document


@pytest.mark.parametrize("piece", ADVERSARIAL)
def test_a_reply_of_any_length_and_depth_is_read_in_bounded_time(piece: str) -> None:
    """In a process of its own, which is ended if it hangs."""
    code = "import sys; from training.grading.replies import last_object; print(last_object(sys.stdin.read()))"
    text = piece * (1_000_000 // len(piece)) + RIGHT
    ran = subprocess.run(
        [sys.executable, "-c", code], input=text, capture_output=True, text=True, timeout=60, cwd=PROJECT, check=True
    )
    assert ran.stdout.strip() in (RIGHT, "")


def test_only_the_end_of_a_long_reply_is_searched() -> None:
    assert last_object(WRONG + "x" * LONGEST) == ""
    assert last_object("x" * 10 * LONGEST + RIGHT) == RIGHT
