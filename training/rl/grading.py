"""Accuracy of rollouts: graded while others are still decoded, and never by a judge that is not there."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, repeat

from training.chat.endpoint import EndpointDownError
from training.grading.grade import Answered, grade
from training.grading.judge import Judge
from training.grading.repetition import REPETITIVE, repetition
from training.recipes import RlRecipe
from training.rl.rollouts import Rollout

VALUES = {"correct": 1.0, "incorrect": 0.0, "unjudged": None}
REPETITIVE_PAYS = -1.0
"""In place of accuracy, of a right answer too (reference/rl.md 2.3)."""
PAUSES = (10.0, 30.0, 60.0, 300.0)
"""Seconds between attempts while the judge is gone; the last for ever."""

Values = list[float | None]


class RolloutGrader:
    """Grades rollouts with the rule and the judge (on_outage "raise"), in a thread of its own.

    Where the judge is gone, training waits and asks again: what an outage hides is no verdict, and to go on without it
    would teach from the rows that the rule can grade alone.
    """

    def __init__(self, recipe: RlRecipe, judge: Judge | None, say: Callable[[str], None]) -> None:
        self._parser, self._judge, self._say = recipe.parser, judge, say
        self._thread = ThreadPoolExecutor(1, "judge")  # one at a time: the judge keeps count
        self._begun: list[tuple[Sequence[Rollout], Future[Values]]] = []

    def begin(self, rollouts: Sequence[Rollout]) -> None:
        """Grades these beside whatever comes next; `accuracy` of them, and of what was begun before, collects it."""
        self._begun.append((rollouts, self._thread.submit(self._graded, rollouts)))

    def accuracy(self, rollouts: Sequence[Rollout]) -> Values:
        """1, 0 or -1 (repetitive) for each rollout, None where nobody could judge."""
        known: dict[int, float | None] = {}
        for begun, future in self._begun:
            known.update(zip(map(id, begun), self._patiently(begun, future.result), strict=True))
        self._begun.clear()
        if others := [r for r in rollouts if id(r) not in known]:
            known.update(zip(map(id, others), self._patiently(others, lambda: self._graded(others)), strict=True))
        return [known[id(r)] for r in rollouts]

    def _patiently(self, rollouts: Sequence[Rollout], attempt: Callable[[], Values]) -> Values:
        for pause in chain(PAUSES, repeat(PAUSES[-1])):
            try:
                return attempt()
            except EndpointDownError as error:
                self._say(f"{error}; training waits {pause:g} s and asks again")
                time.sleep(pause)
            attempt = lambda: self._graded(rollouts)  # noqa: E731 - what was begun has failed for good
        raise AssertionError("the pauses have no end")

    def _graded(self, rollouts: Sequence[Rollout]) -> Values:
        items = [Answered(r.row["question"], r.row["answer"], r.text) for r in rollouts]
        verdicts = grade(items, self._parser, self._judge)
        return [
            REPETITIVE_PAYS if repetition(r.text) > REPETITIVE else VALUES[verdict.verdict]
            for r, verdict in zip(rollouts, verdicts, strict=True)
        ]
