"""Accuracy of rollouts, graded while others are still decoded."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, repeat
from queue import SimpleQueue
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
Graded = list[tuple[Rollout, float | None]]


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
        self._waiting: SimpleQueue[Rollout] = SimpleQueue()
        self._started: list[Future[Graded]] = []

    def start(self, rollouts: Sequence[Rollout]) -> None:
        """Grades these in the background, at once with others that wait by then; `accuracy` collects the result."""
        for rollout in rollouts:
            self._waiting.put(rollout)
        self._started.append(self._thread.submit(self._grade_waiting))

    def accuracy(self, rollouts: Sequence[Rollout]) -> Accuracies:
        """1, 0 or -1 (repetitive) for each rollout, None for an unjudged one."""
        graded: Graded = []
        pauses = chain(PAUSES, repeat(PAUSES[-1]))
        while True:
            try:
                while self._started:
                    graded += self._started.pop(0).result()
            except EndpointDownError as error:
                pause = next(pauses)
                self._log(f"{error}; training waits {pause:g} s and tries again")
                time.sleep(pause)
                continue
            accuracies = {id(rollout): accuracy for rollout, accuracy in graded}
            others = [rollout for rollout in rollouts if id(rollout) not in accuracies]
            if not others:
                return [accuracies[id(rollout)] for rollout in rollouts]
            self.start(others)

    def _grade_waiting(self) -> Graded:
        return self._grade([self._waiting.get() for _ in range(self._waiting.qsize())])

    def _grade(self, rollouts: Sequence[Rollout]) -> Graded:
        items = [GradingItem(r.row["question"], r.row["answer"], r.text) for r in rollouts]
        verdicts = grade(items, self._parser, self._judge) if items else []
        return [
            (r, REPETITION_PENALTY if repetition(r.text) > REPETITIVE else ACCURACY[verdict.verdict])
            for r, verdict in zip(rollouts, verdicts, strict=True)
        ]
