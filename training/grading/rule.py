"""What can be graded without a judge: a multiple-choice letter, or an open answer that equals the reference."""

from collections.abc import Mapping
from typing import Literal

from training.grading.parsers import ParserName, answer_text, normalised, option_text, options_of, parse

Verdict = Literal["correct", "incorrect", "unjudged"]


def reference_letter(reference: str, options: Mapping[str, str]) -> str | None:
    """The letter of a multiple-choice reference, given as an option's text or as its letter."""
    plain = normalised(reference)
    same = [letter for letter, option in options.items() if normalised(option) == plain]
    if len(same) == 1:
        return same[0]
    letter = plain.strip("()").upper()
    return letter if letter in options else None


def grade_by_rule(
    question: str, reference: str, response_text: str, parser: ParserName = "option_text"
) -> Verdict | None:
    """The verdict where the rule settles it, or None where the judge must: an open answer that is not an exact match.

    Multiple choice is always settled: the letter that the parser reads, or else the option whose text is repeated, is
    the reference's, or the answer is wrong.  A response without a complete, non-empty answer tag is wrong in either
    case.  Raises ValueError when a multiple-choice reference names none of the options, since then no answer could ever
    be right.
    """
    options = options_of(question)
    if options:
        expected = reference_letter(reference, options)
        if expected is None:
            raise ValueError(f"reference {reference!r} is none of the options {options} of {question!r}")
        letter = parse(parser, response_text, options).letter or option_text(response_text, options).letter
        return "correct" if letter == expected else "incorrect"
    answer = answer_text(response_text)
    if not answer:
        return "incorrect"
    return "correct" if normalised(answer) == normalised(reference) else None
