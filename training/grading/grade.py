"""Grading: the rule where it settles the answer (a multiple-choice letter, an open answer that equals the reference),
the judge for the rest, each distinct case once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from training.grading.judge import Judge, JudgeItem
from training.grading.parsers import ParserName, answer_text, normalised, option_text, options_of, parse
from training.grading.replies import Verdict


@dataclass(frozen=True)
class GradingItem:
    """A question, its reference answer and a model's whole response."""

    question: str
    reference: str
    response: str


@dataclass(frozen=True)
class Grade:
    """A verdict and who gave it."""

    verdict: Verdict
    by: Literal["rule", "judge"]


def grade(items: Sequence[GradingItem], parser: ParserName, judge: Judge | None) -> list[Grade]:
    """Verdicts in the order of the items; without a judge, what the rule leaves open is unjudged."""
    by_rule = {item: _by_rule(item, parser) for item in set(items)}
    open_items = {
        item: JudgeItem(item.question, item.reference, answer_text(item.response) or "")
        for item, verdict in by_rule.items()
        if verdict is None
    }
    triples = sorted(set(open_items.values()))
    judged = dict(zip(triples, judge.verdicts(triples), strict=True)) if judge else {}
    graded = {
        item: Grade(judged.get(open_items[item], "unjudged"), "judge") if verdict is None else Grade(verdict, "rule")
        for item, verdict in by_rule.items()
    }
    return [graded[item] for item in items]


def _by_rule(item: GradingItem, parser: ParserName) -> Verdict | None:
    """The rule's verdict; None, too, for options none of which is the reference: some rows' answers are free text."""
    options = options_of(item.question)
    if options and reference_letter(item.reference, options) is None:
        return None
    return grade_by_rule(item.question, item.reference, item.response, parser)


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
