"""What rows are like before they are answered, and how many answers the curtailed procedure then asks for.

A population is a joint histogram of p_t and p_v.  It is observed (the audited rows of earlier runs) or assumed.  A
row's answers come in no particular order, so given its p_t and p_v they are draws without replacement, and what the
procedure asks for is computed exactly, not simulated.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import comb, sqrt
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from evaluation.answering.curtailment import CONDITIONS, EVEN, Condition, Expected, GainRule, Tally, wanted
from training.parquet import scan_parquet

SAMPLES = 8
SCORED = 2_700_000  # TwiFF-2.7M; how many of its rows the paper scored is not published, all of them is assumed
KEPT_BY_GAIN = {3: 14_100, 4: 11_300, 5: 8_200, 6: 6_300, 7: 5_100, 8: 5_100}  # the paper, figure 6
MAX_P_T = 6  # the paper's
RIGHT_IF_SATURATED, RIGHT_IF_HOPELESS = 0.95, 0.03

Wanted = Callable[..., Mapping[Condition, int]]
"""`evaluation.answering.curtailment.wanted`, or another choice of what to ask for."""


class Kinds(BaseModel):
    """Assumed shares of the rows that the hint does not help, which the paper says nothing about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    saturated: float = Field(default=0.4, ge=0, le=1)
    """Each answer is right with probability 0.95, with and without the hint."""
    hopeless: float = Field(default=0.4, ge=0, le=1)
    """The same with 0.03."""
    ambiguous: float = Field(default=0.2, ge=0, le=1)
    """Any probability is as likely as any other; the hint does not change it."""

    @model_validator(mode="after")
    def _they_are_all(self) -> "Kinds":
        if abs(self.saturated + self.hopeless + self.ambiguous - 1) > 1e-9:
            raise ValueError(f"the shares of saturated, hopeless and ambiguous rows must sum to 1; found {self}")
        return self


@dataclass(frozen=True)
class Population:
    """`counts[p_t, p_v]` rows, whole or not.

    `observed` of them were really scored; where none was, the counts are an assumption, and `instead` holds others
    that would be no worse.
    """

    counts: np.ndarray
    source: str
    observed: int = 0
    instead: tuple[np.ndarray, ...] = ()

    @property
    def samples(self) -> int:
        return int(self.counts.shape[0]) - 1

    def mean(self, values: np.ndarray) -> float:
        """The mean over rows of what each (p_t, p_v) has."""
        return float(np.average(values, weights=self.counts))

    @property
    def expected(self) -> Expected:
        """What its audited rows would say of any row."""
        p_t, p_v = np.indices(self.counts.shape)
        answers = self.samples * self.counts.sum()
        right, wrong = (self.counts * p_t).sum(), (self.counts * (self.samples - p_v)).sum()
        return Expected((right + 1) / (answers + 2), (wrong + 1) / (answers + 2))

    def between(self, values: np.ndarray) -> tuple[float, float]:
        """Where that mean may lie: a 95 % interval if rows were observed, else the extremes of the assumptions."""
        mean = self.mean(values)
        if self.observed:
            error = 1.96 * sqrt(self.mean((values - mean) ** 2) / self.observed)
            return mean - error, mean + error
        means = [mean, *(float(np.average(values, weights=counts)) for counts in self.instead)]
        return min(means), max(means)

    def kept(self, rule: GainRule) -> float:
        """The share of rows that the rule keeps, before any cut at the top."""
        gain = np.arange(self.samples + 1)[None, :] - np.arange(self.samples + 1)[:, None]
        kept = (gain >= rule.min_gain) & (np.arange(self.samples + 1)[:, None] <= rule.max_p_t)
        return self.mean(kept)


def population_of(files: Sequence[Path], samples: int = SAMPLES) -> Population:
    """What the audited rows of visual_gain.parquet files show: they alone stand for all rows.

    Raises ValueError where there is none, or a row was scored with more than `samples` answers.
    """
    audited = scan_parquet(*files).filter("audited").select("p_t", "p_v").collect()
    scored = audited.drop_nulls()
    if scored.is_empty():
        raise ValueError(f"no audited row is scored in {len(files)} tables of visual gain: plan from the assumption")
    counts = np.zeros((samples + 1, samples + 1))
    for p_t, p_v, rows in scored.group_by("p_t", "p_v").len().iter_rows():
        if max(p_t, p_v) > samples:
            raise ValueError(f"a row has p_t {p_t} and p_v {p_v}, the rule asks for {samples} answers a condition")
        counts[p_t, p_v] = rows
    pending = audited.height - scored.height
    return Population(counts, f"{scored.height:,} audited rows ({pending:,} pending ones left out)", scored.height)


def assumed_population(kinds: Kinds | None = None) -> Population:
    """2.7 million rows of which the paper's 50,000 are the best: rows of three kinds, some of which gain by chance,
    and as many rows that the hint helps as the paper's bars from gain 3 to 8 need besides, spread evenly over p_t.

    Instead of these, all rows that are saturated or hopeless might be one or the other.  Raises ValueError for kinds
    that make gain 4 or more by chance alone in more rows than the paper kept: there its bars are complete, since the
    cut fell inside gain 3.
    """
    kinds = kinds or Kinds()
    clear = kinds.saturated + kinds.hopeless
    extremes = [kinds.model_copy(update={"saturated": s, "hopeless": clear - s}) for s in (0.0, clear)]
    source = f"assumed: the paper's gains of the kept 50K among {SCORED:,} rows; of the others {kinds}"
    return Population(_assumed_counts(kinds), source, instead=tuple(map(_assumed_counts, extremes)))


def _assumed_counts(kinds: Kinds) -> np.ndarray:
    by_chance = (
        kinds.saturated * _rows_right(RIGHT_IF_SATURATED)
        + kinds.hopeless * _rows_right(RIGHT_IF_HOPELESS)
        + kinds.ambiguous * np.mean([_rows_right((level + 0.5) / 200) for level in range(200)], axis=0)
    )
    helped = dict.fromkeys(KEPT_BY_GAIN, 0.0)
    for _ in range(10):  # fewer rows of the three kinds leave fewer gains to chance: settles at once
        counts = (SCORED - sum(helped.values())) * by_chance
        missing = {gain: kept - counts[_cells(gain)].sum() for gain, kept in KEPT_BY_GAIN.items()}
        helped = {gain: max(0.0, rows) for gain, rows in missing.items()}
    for gain, rows in helped.items():
        if missing[gain] < 0 and gain > min(KEPT_BY_GAIN):
            raise ValueError(
                f"assume fewer ambiguous rows than in {kinds}: by chance alone {counts[_cells(gain)].sum():,.0f} of"
                f" {SCORED:,} rows would gain {gain}, the paper kept {KEPT_BY_GAIN[gain]:,}"
            )
        counts[_cells(gain)] += rows / len(_cells(gain)[0])
    return np.asarray(counts)


@dataclass(frozen=True)
class Asked:
    """Per (p_t, p_v): expected answers and expected requests (one prefill each) of a row, by condition."""

    answers: Mapping[Condition, np.ndarray]
    requests: Mapping[Condition, np.ndarray]

    @property
    def all_answers(self) -> np.ndarray:
        return np.asarray(sum(self.answers.values()))


def expected_answers(rule: GainRule, expected: Expected = EVEN, ask: Wanted = wanted) -> Asked:
    """What the procedure asks of rows, the audit included; `ask` is its step, `expected` what the audit has shown it.

    Exact: `chance[a, r, b, w]` is the probability, for every (p_t, p_v), to meet a row with r of a plain answers right
    and w of b hinted ones wrong.
    """
    samples = rule.samples
    full = np.full((samples + 1, samples + 1), float(samples))
    answers = dict.fromkeys(CONDITIONS, rule.audit * full)
    requests = dict.fromkeys(CONDITIONS, rule.audit * full / samples)
    chance = {(0, 0, 0, 0): np.full_like(full, 1 - rule.audit)}
    for total in range(2 * samples):
        for state in [state for state in chance if state[0] + state[2] == total]:
            a, r, b, w = state
            reached = chance.pop(state)
            more = ask(rule, Tally(a, r, a - r), Tally(b, b - w, w), False, expected)
            for condition, count in more.items():
                answers[condition] = answers[condition] + count * reached
                requests[condition] = requests[condition] + (count > 0) * reached
            for right, p in _draws(samples, a, r, more["plain"]).items():
                for wrong, q in _draws(samples, b, w, more["hint"]).items():
                    new = (a + more["plain"], right, b + more["hint"], wrong)
                    if new != state:
                        chance[new] = chance.get(new, 0.0) + reached * p[:, None] * q[None, ::-1]
    return Asked(answers, requests)


@cache
def _draws(samples: int, asked: int, hits: int, more: int) -> Mapping[int, np.ndarray]:
    """After `more` further answers: by the number of hits, its probability for each number of hits in all `samples`."""
    left = samples - asked
    found: dict[int, np.ndarray] = {}
    for extra in range(more + 1):
        in_left = [(total - hits, left - total + hits) for total in range(samples + 1)]
        ways = [comb(h, extra) * comb(m, more - extra) if h >= 0 and m >= 0 else 0 for h, m in in_left]
        found[hits + extra] = np.array(ways) / comb(left, more)
    return found


def _rows_right(probability: float) -> np.ndarray:
    """The joint histogram of one row whose answers are right with this probability in either condition."""
    right = np.array(
        [comb(SAMPLES, k) * probability**k * (1 - probability) ** (SAMPLES - k) for k in range(SAMPLES + 1)]
    )
    return np.outer(right, right)


def _cells(gain: int) -> tuple[np.ndarray, np.ndarray]:
    """The (p_t, p_v) that the paper's rule keeps at this gain."""
    p_t = np.arange(min(MAX_P_T, SAMPLES - gain) + 1)
    return p_t, p_t + gain
