"""Answers that curtailment does not ask for: with what an audit shows, without, and by the best procedure there is.

Exact figures for assumed and measured populations; nothing is timed.
"""

from functools import cache
from math import comb

import numpy as np
import pytest

from assets.curation.population import Kinds, Population, assumed_population, expected_answers
from evaluation.answering.curtailment import CONDITIONS, Condition, GainRule, Tally, settled_against

# The demo's rows with SEED=0, scored in full: rows by (p_t, p_v).
DEMO = {
    (0, 0): 178, (0, 1): 29, (0, 2): 14, (0, 3): 11, (0, 4): 12, (0, 5): 14, (0, 6): 18, (0, 7): 64, (0, 8): 3346,
    (1, 0): 5, (1, 1): 1, (1, 5): 1, (1, 6): 2, (1, 7): 2, (1, 8): 17, (2, 1): 1, (2, 8): 5, (3, 0): 1, (3, 1): 1,
    (3, 6): 1, (3, 8): 9, (4, 8): 7, (5, 8): 4, (6, 6): 1, (6, 8): 1, (7, 0): 1, (7, 3): 1, (7, 8): 4, (8, 0): 370,
    (8, 1): 2, (8, 2): 2, (8, 3): 1, (8, 4): 1, (8, 5): 2, (8, 6): 2, (8, 7): 5, (8, 8): 313,
}  # fmt: skip


def demo() -> Population:
    counts = np.zeros((9, 9))
    for cell, rows in DEMO.items():
        counts[cell] = rows
    return Population(counts, "the demo", int(counts.sum()))


POPULATIONS = {
    "paper, 40 % saturated, 40 % hopeless": assumed_population(),
    "paper, 80 % saturated": assumed_population(Kinds(saturated=0.8, hopeless=0)),
    "paper, 80 % hopeless": assumed_population(Kinds(saturated=0, hopeless=0.8)),
    "paper, 30 % saturated, 60 % hopeless": assumed_population(Kinds(saturated=0.3, hopeless=0.6, ambiguous=0.1)),
    "demo": demo(),
}


def options(rule: GainRule, plain: Tally, hint: Tally) -> dict[Condition, tuple[int, int]]:
    """Per condition that can be asked: answers that would settle the row, and the portion; empty if none could."""
    left = {"plain": rule.samples - plain.answers, "hint": rule.samples - hint.answers}
    either = rule.samples - rule.min_gain + 1 - hint.wrong - plain.right
    saturated = rule.max_p_t + 1 - plain.right
    if saturated > left["plain"] and either > sum(left.values()):
        return {}
    need = {"plain": min(saturated, either), "hint": either}
    return {c: (need[c], min(rule.round, need[c], left[c])) for c in CONDITIONS if left[c]}


def fewest_answers(rule: GainRule, population: Population) -> float:
    """Answers a row of the best procedure that knows the population and asks in the same portions (no audit)."""
    samples = rule.samples
    weights = population.counts[:, ::-1]  # by plain right and hinted wrong

    @cache
    def likelihood(asked: int, hits: int) -> np.ndarray:
        return np.array([comb(h, hits) * comb(samples - h, asked - hits) for h in range(samples + 1)]) / comb(
            samples, asked
        )

    @cache
    def go(a: int, r: int, b: int, w: int) -> tuple[float, float]:
        """The weight of the rows that show r of a plain answers right and w of b hinted ones wrong, in one given
        order, and the answers that they cost from here on."""
        weight = float(likelihood(a, r) / comb(a, r) @ weights @ likelihood(b, w) / comb(b, w))
        plain, hint = Tally(a, r, a - r), Tally(b, b - w, w)
        if settled_against(rule, plain, hint) or (a, b) == (samples, samples):
            return weight, 0.0
        can = options(rule, plain, hint)
        if not can:
            return weight, weight * (2 * samples - a - b)
        costs = []
        for condition, (_, k) in can.items():
            nexts = [(a + k, r + x, b, w) if condition == "plain" else (a, r, b + k, w + x) for x in range(k + 1)]
            costs.append(k * weight + sum(comb(k, x) * go(*state)[1] for x, state in enumerate(nexts)))
        return weight, min(costs)

    weight, answers = go(0, 0, 0, 0)
    return answers / weight


@pytest.mark.parametrize("name", POPULATIONS)
def test_answers_saved(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    population = POPULATIONS[name]
    for portion in (1, 2, 4, 8):
        rule = GainRule(round=portion, audit=0.0)
        asked = expected_answers(rule, population.expected)
        ours = population.mean(asked.all_answers)
        blind = population.mean(expected_answers(rule).all_answers)
        best = fewest_answers(rule, population)
        assert best <= min(ours, blind) + 1e-9 and max(ours, blind) < 16
        prefills = sum(population.mean(requests) for requests in asked.requests.values())
        saved = [f"{100 * (1 - answers / 16):.1f} %" for answers in (ours, blind, best)]
        with capsys.disabled():
            print(
                f"\nanswers saved, {name}, {portion} at a time: {saved[0]} (without an audit {saved[1]}, best"
                f" possible {saved[2]}; {prefills:.2f} prefills a row against 2)",
                end="",
            )


def test_a_row_that_is_known_to_be_saturated_or_hopeless_needs_seven_answers() -> None:
    for cell in ((8, 8), (0, 0)):
        counts = np.zeros((9, 9))
        counts[cell] = 1
        assert fewest_answers(GainRule(round=1), Population(counts, "one kind")) == pytest.approx(7)
