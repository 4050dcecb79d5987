"""The ledger of answers: each is written as it arrives, and none is paid for twice.

One append-only file holds the answers that one model gave under one way of sampling; a line is found by the key of its
prompt (a hash of its id and what is shown, or the id) and the number of the answer.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

import polars as pl

from evaluation.requests import Answer
from training.appendlog import AppendLog
from training.data.prompts import ANSWERS


class Ledger:
    """The answers to some prompts: those that the file holds already, and those that are added."""

    def __init__(self, path: Path, prompts: Mapping[str, str]) -> None:
        """`prompts`: ids by key."""
        self._log = AppendLog(path)
        self._keys = {prompt_id: key for key, prompt_id in prompts.items()}
        self._answers: dict[tuple[str, int], Answer] = {}
        for record in self._log.records():
            prompt_id = prompts.get(str(record.get("key")))
            if prompt_id is not None and set(ANSWERS) <= set(record):
                self._answers.setdefault((prompt_id, record["sample"]), {**record, "prompt_id": prompt_id})

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.close()

    def __len__(self) -> int:
        return len(self._answers)

    def add(self, answer: Answer) -> None:
        """Writes an answer that was just given.

        Raises ValueError for one that is there already: it was paid for twice.
        """
        place = (answer["prompt_id"], answer["sample"])
        if place in self._answers:
            raise ValueError(f"answer {place[1]} of {place[0]!r} was given twice")
        self._answers[place] = answer
        self._log.append({"key": self._keys[answer["prompt_id"]], **answer})

    def missing(self, prompt_id: str, samples: Iterable[int]) -> tuple[int, ...]:
        """Those of the answers' numbers that are not in the ledger."""
        return tuple(sample for sample in samples if (prompt_id, sample) not in self._answers)

    def told(self, prompt_id: str, samples: int) -> list[Answer]:
        """The answers to a prompt whose number is below `samples`, by their numbers."""
        found = (self._answers.get((prompt_id, sample)) for sample in range(samples))
        return [answer for answer in found if answer is not None]

    def table(self, samples: int) -> pl.DataFrame:
        """All of them whose number is below `samples`, as a table of answers ordered by prompt and number."""
        chosen = [self._answers[place] for place in sorted(self._answers) if place[1] < samples]
        return pl.DataFrame([{name: answer[name] for name in ANSWERS} for answer in chosen], schema=ANSWERS)
