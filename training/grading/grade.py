"""The one way to grade: the rule where it settles the answer, the judge for the rest, each distinct case once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from training.grading.judge import Judge, Triple
from training.grading.parsers import ParserName, answer_text, options_of
from training.grading.rule import Verdict, grade_by_rule, reference_letter


@dataclass(frozen=True)
class Answered:
    """A question, its reference answer and a model's whole response."""

    question: str
    reference: str
    response: str


@dataclass(frozen=True)
class Graded:
    """A verdict and who gave it."""

    verdict: Verdict
    by: Literal["rule", "judge"]


def grade(items: Sequence[Answered], parser: ParserName, judge: Judge | None) -> list[Graded]:
    """Verdicts in the order of the items; without a judge, what the rule leaves open is unjudged."""
    by_rule = {item: _by_rule(item, parser) for item in set(items)}
    open_items = {
        item: Triple(item.question, item.reference, answer_text(item.response) or "")
        for item, verdict in by_rule.items()
        if verdict is None
    }
    triples = sorted(set(open_items.values()))
    judged = dict(zip(triples, judge.verdicts(triples), strict=True)) if judge else {}
    graded = {
        item: Graded(judged.get(open_items[item], "unjudged"), "judge") if verdict is None else Graded(verdict, "rule")
        for item, verdict in by_rule.items()
    }
    return [graded[item] for item in items]


def _by_rule(item: Answered, parser: ParserName) -> Verdict | None:
    """The rule's verdict; None, too, for options none of which is the reference: some rows' answers are free text."""
    options = options_of(item.question)
    if options and reference_letter(item.reference, options) is None:
        return None
    return grade_by_rule(item.question, item.reference, item.response, parser)
