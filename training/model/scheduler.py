"""Which prompts a batch takes next: those that fit beside the answers that it still decodes."""

import math
from collections.abc import Hashable, Sequence
from itertools import accumulate

from training.model.encoding import Encoded


class Scheduler:
    """Prompts that wait for their turn, each with a seed for each of its answers.

    A batch holds at most `limit` tokens: for each answer those of its prompt and the longest answer, padding counted,
    also that of a prompt whose longer neighbours have left.  A prompt counts as one answer more while it is prefilled.
    `waiting`: the numbers of the prompts that wait, in order; None: all.  `running` are the prompts of the batch, and
    `size` the tokens that it had when some joined last.

    Raises ValueError for a prompt without seeds.
    """

    def __init__(
        self,
        prompts: Sequence[Encoded],
        seeds: Sequence[Sequence[int]],
        groups: Sequence[Hashable] | None,
        max_new_tokens: int,
        limit: float = math.inf,
        waiting: Sequence[int] | None = None,
    ) -> None:
        if len(seeds) != len(prompts) or not all(seeds):
            counts = [len(of_prompt) for of_prompt in seeds]
            raise ValueError(f"each prompt needs its seeds, one an answer: {counts} for {len(prompts)}")
        self.prompts, self.seeds, self.groups = prompts, seeds, groups
        self.waiting = list(range(len(prompts)) if waiting is None else waiting)
        self.running: list[int] = []
        self.size = 0
        self._lengths = [len(prompt.ids) for prompt in prompts]
        self._max_new_tokens, self._limit = max_new_tokens, limit
        ends = accumulate(map(len, seeds))
        self.answers = [range(end - len(of_prompt), end) for of_prompt, end in zip(seeds, ends, strict=True)]
        """The numbers of each prompt's answers among all."""

    def admit(self, answers: Sequence[int]) -> list[int]:
        """The prompts that join these answers (the number of the prompt of each): as many as fit.

        At least one, where there are no answers; no group is cut that fits whole.
        """
        count = self._fitting(answers)
        admitted, self.waiting = self.waiting[:count], self.waiting[count:]
        self.running = [*dict.fromkeys(answers), *admitted]
        if admitted:
            self.size = self._tokens(len(answers) + self._places(admitted), self.running)
        return admitted

    def prefilled(self, prompts: Sequence[int], slots: int) -> None:
        """These prompts were prefilled together in so many slots, which each has until it leaves."""
        for number in prompts:
            self._lengths[number] = slots

    def _fitting(self, answers: Sequence[int]) -> int:
        if self._limit == math.inf:
            return len(self.waiting)
        prompts, places = [*set(answers)], len(answers)
        for end, number in enumerate(self.waiting):
            prompts.append(number)
            places += self._places([number])
            if (end or answers) and self._tokens(places, prompts) > self._limit:
                whole = [at for at in range(1, end + 1) if self._is_boundary(at)]
                return max(whole, default=0 if answers else end)
        return len(self.waiting)

    def _is_boundary(self, at: int) -> bool:
        return self.groups is None or self.groups[self.waiting[at]] != self.groups[self.waiting[at - 1]]

    def _places(self, prompts: Sequence[int]) -> int:
        return len(prompts) + sum(len(self.answers[number]) for number in prompts)

    def _tokens(self, places: int, prompts: Sequence[int]) -> int:
        longest = max((self._lengths[number] for number in prompts), default=0)
        return places * (longest + self._max_new_tokens)
