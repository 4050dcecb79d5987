"""Every recorded case of the release's parsers is reproduced; ours read what they claim to read and nothing else."""

import json
from pathlib import Path

import pytest

from training.grading.parsers import answer_text, option_text, options_of, parse, release, release_direct, strict

CASES = json.loads((Path(__file__).parents[2] / "data" / "parse_cases.json").read_text())
OPTIONS = {"A": "red", "B": "blue", "C": "dark green", "D": "pink"}


def recorded(function: str) -> list[tuple[str, str]]:
    return [(case["input"], case["output"]) for case in CASES if case["fn"] == function]


@pytest.mark.parametrize(("text", "letter"), recorded("futurebench.extract_thinking_answer_regex"))
def test_the_tag_parser_equals_the_release(text: str, letter: str) -> None:
    assert (release(text).letter or "") == letter


@pytest.mark.parametrize(("text", "letter"), recorded("futurebench.extract_characters_regex"))
def test_the_letter_parser_equals_the_release(text: str, letter: str) -> None:
    assert (release_direct(text).letter or "") == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("<answer>(C)</answer>", "C"),
        ("<answer>Answer: C</answer>", "A"),
        ("<answer>Because it rains</answer>", "B"),
        ("<answer>\\boxed{B}</answer>", "B"),
        ("<answer>B", None),
        ("<answer >B</answer>", None),
        ("<answer> </answer> tags. <answer>D</answer>", None),
        ("<answer>A</answer> wait <answer>D</answer>", "A"),
        ("<answer>not A, it is B</answer>", "A"),
    ],
)
def test_the_tag_parser_keeps_the_documented_oddities(text: str, letter: str | None) -> None:
    assert release(text).letter == letter


@pytest.mark.parametrize(("text", "letter"), [("Answer: C", "A"), ("Dunno", "D"), ("Definitely option C", "D")])
def test_the_letter_parser_keeps_the_documented_oddities(text: str, letter: str) -> None:
    assert release_direct(text).letter == letter


@pytest.mark.parametrize(
    ("inner", "letter"),
    [
        ("C", "C"),
        ("(c)", "C"),
        (" b ", "B"),
        ("C.", "C"),
        ("option C", "C"),
        ("Option: (d)", "D"),
        ("Answer: C", "C"),
        ("The correct answer is D.", "D"),
        ("The Correct option is D", "D"),
        ("\\boxed{B}", "B"),
        ("B) jumps", "B"),
        ("D. The cat jumps", "D"),
        ("Because it rains", None),
        ("not A, it is B", None),
        ("A cat jumps", None),
        ("Dunno", None),
        ("optionc", None),
        ("", None),
        ("E", None),
    ],
)
def test_the_strict_parser_reads_only_anchored_letters(inner: str, letter: str | None) -> None:
    assert strict(f"<reason>A</reason><answer>{inner}</answer>").letter == letter


def test_the_strict_parser_reads_the_last_complete_tag() -> None:
    assert strict("asked for <answer> </answer>: <answer>D</answer> <answer>A").letter == "D"
    assert strict("<answer>A</answer> wait <answer>D</answer>").letter == "D"
    assert strict("B").letter is None


def test_an_answer_is_the_text_of_the_last_complete_tag() -> None:
    assert answer_text("<answer>I think <answer>C</answer></answer>") == "C"
    assert answer_text("<answer> red\n</answer><answer>blue") == "red"
    assert answer_text("red") is None


def test_an_option_is_recognised_by_its_exact_text_without_case_and_spacing() -> None:
    assert option_text("<answer> Dark\n green </answer>", OPTIONS).letter == "C"
    assert option_text("<answer>green</answer>", OPTIONS).letter is None
    assert option_text("<answer>C</answer>", OPTIONS).letter is None
    assert option_text("red", OPTIONS) == parse("option_text", "red", OPTIONS)


def test_two_options_with_one_text_settle_nothing() -> None:
    assert option_text("<answer>red</answer>", {"A": "red", "B": "Red"}).letter is None


def test_options_are_the_lettered_lines_that_close_a_question() -> None:
    assert options_of("Which?\nA. red\nB. dark green\nC. blue\nD. pink") == {
        "A": "red",
        "B": "dark green",
        "C": "blue",
        "D": "pink",
    }


@pytest.mark.parametrize(
    "question", ["Which colour?", "A. only one", "Which?\nA. red\nC. blue", "What did B. do?\nB. it"]
)
def test_a_question_without_a_run_of_options_is_open_ended(question: str) -> None:
    assert options_of(question) == {}
