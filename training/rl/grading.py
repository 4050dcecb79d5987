"""Accuracy of rollouts, graded while others are still decoded."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, repeat
from typing import Literal

from training.chat.endpoint import EndpointDownError
from training.grading.form import REPETITIVE, repetition
from training.grading.grade import GradingItem, grade
from training.grading.judge import Judge
from training.rl.rollouts import Rollout

ACCURACY = {"correct": 1.0, "incorrect": 0.0, "unjudged": None}
REPETITION_PENALTY = -1.0
"""The accuracy of a repetitive answer, also of a correct one (reference/rl.md 2.3)."""
PAUSES = (10.0, 30.0, 60.0, 300.0)
"""Seconds between attempts while the judge is unreachable; the last one repeats."""

Accuracies = list[float | None]


class RolloutGrader:
    """Grades rollouts with the rule and the judge (on_outage "raise"), in a thread of its own.

    While the judge is unreachable, training waits and retries: an outage is no verdict, and without the judge only the
    rows that the rule can grade would be trained on.
    """

    def __init__(
        self, parser: Literal["strict", "option_text"], judge: Judge | None, log: Callable[[str], None]
    ) -> None:
        self._parser, self._judge, self._log = parser, judge, log
        self._thread = ThreadPoolExecutor(1, "judge")  # one at a time: the judge keeps count
        self._started: list[tuple[Sequence[Rollout], Future[Accuracies]]] = []

    def start(self, rollouts: Sequence[Rollout]) -> None:
        """Grades these in the background; `accuracy` collects the result."""
        self._started.append((rollouts, self._thread.submit(self._grade, rollouts)))

    def accuracy(self, rollouts: Sequence[Rollout]) -> Accuracies:
        """1, 0 or -1 (repetitive) for each rollout, None for an unjudged one."""
        graded: dict[int, float | None] = {}
        for started, future in self._started:
            graded.update(zip(map(id, started), self._with_retries(started, future), strict=True))
        self._started.clear()
        if others := [r for r in rollouts if id(r) not in graded]:
            future = self._thread.submit(self._grade, others)
            graded.update(zip(map(id, others), self._with_retries(others, future), strict=True))
        return [graded[id(r)] for r in rollouts]

    def _with_retries(self, rollouts: Sequence[Rollout], future: Future[Accuracies]) -> Accuracies:
        for pause in chain(PAUSES, repeat(PAUSES[-1])):
            try:
                return future.result()
            except EndpointDownError as error:
                self._log(f"{error}; training waits {pause:g} s and tries again")
                time.sleep(pause)
            future = self._thread.submit(self._grade, rollouts)  # behind those that were started since
        raise AssertionError("the pauses have no end")

    def _grade(self, rollouts: Sequence[Rollout]) -> Accuracies:
        items = [GradingItem(r.row["question"], r.row["answer"], r.text) for r in rollouts]
        verdicts = grade(items, self._parser, self._judge)
        return [
            REPETITION_PENALTY if repetition(r.text) > REPETITIVE else ACCURACY[verdict.verdict]
            for r, verdict in zip(rollouts, verdicts, strict=True)
        ]
