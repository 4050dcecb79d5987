"""Answers that curtailment does not ask for of the demo's rows, and the requests of the others. Nothing is timed."""

import numpy as np
import pytest

from evaluation.generation.curtailment import CONDITIONS, ExpectedRates, GainRule, VerdictCounts, next_samples

# The demo's rows with SEED=0, scored in full: rows by (p_t, p_v).
DEMO = {
    (0, 0): 178, (0, 1): 29, (0, 2): 14, (0, 3): 11, (0, 4): 12, (0, 5): 14, (0, 6): 18, (0, 7): 64, (0, 8): 3346,
    (1, 0): 5, (1, 1): 1, (1, 5): 1, (1, 6): 2, (1, 7): 2, (1, 8): 17, (2, 1): 1, (2, 8): 5, (3, 0): 1, (3, 1): 1,
    (3, 6): 1, (3, 8): 9, (4, 8): 7, (5, 8): 4, (6, 6): 1, (6, 8): 1, (7, 0): 1, (7, 3): 1, (7, 8): 4, (8, 0): 370,
    (8, 1): 2, (8, 2): 2, (8, 3): 1, (8, 4): 1, (8, 5): 2, (8, 6): 2, (8, 7): 5, (8, 8): 313,
}  # fmt: skip


def cost(rule: GainRule, expected: ExpectedRates, streams: dict[str, np.ndarray]) -> tuple[int, int]:
    """Answers and requests of a row whose answers, in this order, are right or not."""
    counts, requests = {condition: VerdictCounts() for condition in CONDITIONS}, 0
    while any((more := next_samples(rule, counts["plain"], counts["hint"], False, expected)).values()):
        for condition, count in more.items():
            answers = counts[condition].generated + count
            right = int(streams[condition][:answers].sum())
            counts[condition] = VerdictCounts(answers, right, answers - right)
            requests += count > 0
    return sum(row_counts.generated for row_counts in counts.values()), requests


@pytest.mark.parametrize("portion", [1, 2, 4, 8])
def test_answers_saved(portion: int, capsys: pytest.CaptureFixture[str]) -> None:
    rule, rng = GainRule(samples_per_round=portion, full_sampling_fraction=0.0), np.random.default_rng(0)
    rows = [cell for cell, count in DEMO.items() for _ in range(count)]
    complete = [(VerdictCounts(8, p_t, 8 - p_t), VerdictCounts(8, p_v, 8 - p_v)) for p_t, p_v in rows]
    streams = [{"plain": rng.permutation(np.arange(8) < p_t), "hint": rng.permutation(np.arange(8) < p_v)}
               for p_t, p_v in rows]  # fmt: skip
    answers, requests = np.mean([cost(rule, ExpectedRates.of(complete), stream) for stream in streams], axis=0)
    assert 7 < answers < 16
    saved = f"{100 * (1 - answers / 16):.1f} %"
    with capsys.disabled():
        print(f"\nanswers saved, {portion} at a time: {saved}; {requests:.2f} requests a row", end="")
