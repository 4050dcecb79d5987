"""Exact curtailment: which answers can still change whether a row is kept, and which of them to generate next.

A row is kept if p_t <= max_p_t and p_v - p_t >= min_gain, p_t and p_v being counts of right answers out of `samples`
without and with the hint (the paper, section 3.2).  A right plain answer and a wrong hinted answer both speak against
it, so a row is settled as soon as its plain answers are too often right, or the right plain and the wrong hinted ones
are together more than samples - min_gain.  Nothing is estimated: the rows that are kept, and their counts, are those
of generating everything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from training.storage.hashing import stable_hash

Condition = Literal["plain", "hint"]
CONDITIONS: tuple[Condition, ...] = ("plain", "hint")
PRIOR_WEIGHT = 0.5
"""The weight of the expected rates, in answers of the row itself."""
MIN_ROWS = 16
"""The least number of complete rows from which the rates of other rows are estimated."""


class GainRule(BaseModel):
    """The thresholds of visual gain, and how a row's answers are sampled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int = Field(default=8, ge=1)
    max_p_t: int = Field(default=6, ge=0)
    min_gain: int = 2
    samples_per_round: int = Field(default=4, ge=1)
    """Answers of a row and condition in one round: they share a prefill, or a request."""
    full_sampling_fraction: float = Field(default=0.01, ge=0, le=1)
    """The fraction of rows, sampled by a hash of their id, that is answered in full; 1 turns curtailment off."""

    @model_validator(mode="after")
    def _check_thresholds(self) -> "GainRule":
        if self.min_gain > self.samples:
            raise ValueError(f"no row can gain {self.min_gain} right answers of {self.samples}")
        return self

    def fully_sampled(self, row_id: str) -> bool:
        """Whether the row is answered in full, and stands for all rows: a function of its id alone."""
        return stable_hash("audit", row_id) < self.full_sampling_fraction * 2**64


@dataclass(slots=True)
class VerdictCounts:
    """The answers of a row under one condition, and how many of them are correct and incorrect.

    An unjudged answer is neither.
    """

    generated: int = 0
    correct: int = 0
    incorrect: int = 0


def settled_against(rule: GainRule, plain: VerdictCounts, hint: VerdictCounts) -> bool:
    """Whether the row cannot be kept any more, whatever its other answers are."""
    return plain.correct > rule.max_p_t or rule.samples - hint.incorrect - plain.correct < rule.min_gain


@dataclass(frozen=True)
class ExpectedRates:
    """The expected share of plain answers that are correct, and of hinted ones that are incorrect, of any row."""

    correct_plain: float = 0.5
    incorrect_hint: float = 0.5

    @classmethod
    def of(cls, rows: Sequence[tuple[VerdictCounts, VerdictCounts]]) -> "ExpectedRates":
        """The shares among complete rows (plain, hint), such as the fully sampled ones; one half where there are
        few."""
        if len(rows) < MIN_ROWS:
            return cls()
        plain, hint = (sum(row[c].correct + row[c].incorrect for row in rows) for c in (0, 1))
        correct, incorrect = sum(row[0].correct for row in rows), sum(row[1].incorrect for row in rows)
        return cls((correct + 1) / (plain + 2), (incorrect + 1) / (hint + 2))


EVEN_ODDS = ExpectedRates()


def next_samples(
    rule: GainRule, plain: VerdictCounts, hint: VerdictCounts, in_full: bool, expected: ExpectedRates = EVEN_ODDS
) -> Mapping[Condition, int]:
    """How many further answers to generate now, per condition; nothing once the row is settled or complete.

    The condition is the one expected to settle the row with fewer answers, from its rate in the row so far and the
    expected rates of any row.  Where only complete counts can decide, all missing answers are generated.
    """
    left: dict[Condition, int] = {"plain": rule.samples - plain.generated, "hint": rule.samples - hint.generated}
    if in_full:
        return left
    if settled_against(rule, plain, hint):
        return dict.fromkeys(CONDITIONS, 0)
    either = rule.samples - rule.min_gain + 1 - hint.incorrect - plain.correct
    saturated = rule.max_p_t + 1 - plain.correct
    if saturated > left["plain"] and either > left["plain"] + left["hint"]:
        return left
    need: dict[Condition, int] = {"plain": min(saturated, either), "hint": either}
    rate = {
        "plain": (plain.correct + PRIOR_WEIGHT * expected.correct_plain) / (plain.generated + PRIOR_WEIGHT),
        "hint": (hint.incorrect + PRIOR_WEIGHT * expected.incorrect_hint) / (hint.generated + PRIOR_WEIGHT),
    }
    open_conditions = [condition for condition in CONDITIONS if left[condition]]
    chosen = min(open_conditions, key=lambda condition: need[condition] / rate[condition])
    return {c: min(rule.samples_per_round, need[c], left[c]) if c == chosen else 0 for c in CONDITIONS}
