"""The options of a multiple-choice question: how they are shown, and which one an answer chooses."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict

from evaluation.generation.controls import rotated
from training.data.dialogue import control_in
from training.data.rejection import RejectedRow
from training.grading.parsers import Parsed, ParserName, parse

LETTERS = "ABCD"
PARSERS: tuple[ParserName, ...] = get_args(ParserName)


class ChoiceSettings(BaseModel):
    """The settings that all multiple-choice benchmarks share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: str
    """How an item is shown."""
    parser: ParserName = "strict"
    """The parser of answers."""


def check_question(question: str, options: Sequence[str], answer: str) -> None:
    """Raises RejectedRow where a text is blank or carries a control token, or the answer is no option's letter."""
    if not all(text.strip() for text in (question, *options)):
        raise RejectedRow("question or option missing", "a blank one")
    for text in (question, *options):
        if control := control_in(text):
            raise RejectedRow("control token in text", f"the item carries {control}")
    if answer not in tuple(LETTERS):
        raise RejectedRow("reference is not one letter A-D", f"found {answer!r}")


def with_options(question: str, options: Sequence[str]) -> str:
    """The question, and a line with its letter for each option."""
    return "\n".join([question, *(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))])


def grade_answer(
    parser: ParserName, text: str, options: Mapping[str, str], answer: str, rotation: int = 0
) -> dict[str, Any]:
    """An answer's `parsed` letter under the parser, its `rule`, whether it is `correct`, and `parsed_by` each parser.

    options: letter to text, as the prompt showed them, `rotation` places from the item's order.
    """
    parsed = {name: _item_letter(parse(name, text, options), rotation) for name in PARSERS}
    chosen = parsed[parser]
    return {
        "parsed": chosen.letter,
        "rule": chosen.rule,
        "correct": chosen.letter == answer,
        "parsed_by": {name: choice.letter for name, choice in parsed.items()},
    }


def _item_letter(parsed: Parsed, rotation: int) -> Parsed:
    """The item's letter of an option that stood `rotation` places earlier in the prompt."""
    if parsed.letter is None:
        return parsed
    return replace(parsed, letter=rotated(LETTERS, rotation)[LETTERS.index(parsed.letter)])
