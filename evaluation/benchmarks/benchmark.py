"""The benchmark protocol: items, prompts, graded answers and a report, as functions of tables.

Generation is separate from scoring: `prompts` is all that the generation program sees; `grade` and `report` need stored
answers and, where a judge gives the marks, the judge's stored replies, but no model and no torch.  Another benchmark
plugs in as a subclass of `Benchmark`: most of it comes from `choice.MultipleChoice` or `judged.JudgedBenchmark`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import dataframely as dy
import polars as pl
from pydantic import BaseModel

from evaluation.benchmarks.items import string_field
from training.data.parts import Part
from training.data.prompts import prompt_frame
from training.grading.judge import Judge
from training.grading.parsers import ParserName
from training.storage.hashing import stable_hash

T = TypeVar("T")


@dataclass(frozen=True)
class StoredAnswers:
    """Answers of a model (training.data.prompts.ANSWERS), and how to read them.

    control: the control of evaluation.generation.controls under which they were generated; judge: None where no judge
    was named.
    """

    answers: pl.DataFrame
    control: str = "none"
    judge: Judge | None = None


@dataclass(frozen=True)
class Benchmark(ABC):
    """A source of questions: how a model is prompted, and how its answers are graded."""

    settings: BaseModel
    """The benchmark's recipe: how items are shown, and how answers are parsed or judged."""
    name: ClassVar[str]
    split_column: ClassVar[str]
    """The column of items and graded answers by which scores are split."""
    splits: ClassVar[tuple[str, ...]] = ()
    """Empty: whatever splits the items have."""
    item_table: ClassVar[type[dy.Schema]]
    """The table of items: `id` (unique), the split column, `problem` (why an item is unusable, else null) and whatever
    else the other methods need."""
    judged: ClassVar[bool]
    """Whether a judge gives the marks."""

    @abstractmethod
    def files(self, source: Path) -> list[Path]:
        """The files that hold the items.  Raises ValueError where the folder `source` has none."""

    @abstractmethod
    def rows(self, source: Path) -> Iterator[dict[str, Any]]:
        """The items of the folder `source` one by one, as rows of `item_table`.

        Raises ValueError or OSError, naming the file, where the folder does not hold this benchmark.
        """

    def items(self, source: Path) -> pl.DataFrame:
        """All items of the folder `source`.  Raises as `rows` does."""
        schema = self.item_table.create_empty().schema
        return self.item_table.validate(pl.DataFrame(list(self.rows(source)), schema=schema))

    @abstractmethod
    def content(self, row: Mapping[str, Any]) -> list[Part]:
        """The prompt of an item."""

    @abstractmethod
    def reference(self, row: Mapping[str, Any]) -> str:
        """A text that items with the same answer share, for donors of latents."""

    @abstractmethod
    def grade(self, items: pl.DataFrame, stored: StoredAnswers) -> pl.DataFrame:
        """One row per answered item: `id`, the split column, and its verdict or marks, null where there is none."""

    @abstractmethod
    def grade_record(self, record: Mapping[str, Any], parser: ParserName) -> dict[str, Any]:
        """The graded row of an answer from elsewhere, a line of `future-l1 score`.

        Raises ValueError where the record lacks a field.
        """

    @abstractmethod
    def report(self, items: pl.DataFrame, stored: StoredAnswers, graded: pl.DataFrame) -> dict[str, Any]:
        """Scores of graded answers, as JSON: `benchmark`, `status` (complete, partial, unanswered or unjudged),
        `reason` (why there is no score, else null), `items`, `answered`, `missing`, `coverage`, and `splits` and
        averages with n and interval, null where n is 0.

        `stored` has the answers of which `graded` was made.
        """

    def prompts(self, items: pl.DataFrame) -> pl.DataFrame:
        """The prompt table (training.data.prompts) of the items without a problem; ids are the items' ids."""
        rows = list(items.filter(pl.col("problem").is_null()).iter_rows(named=True))
        references = pl.Series("reference", [self.reference(row) for row in rows], pl.String)
        return prompt_frame([(row["id"], self.content(row)) for row in rows]).with_columns(references)

    def record_split(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """`id` and split of a record.  Raises ValueError where the split is absent or none of the benchmark's."""
        split = string_field(record, self.split_column)
        if self.splits and split not in self.splits:
            raise ValueError(f"{self.split_column} is {split!r}, not one of {', '.join(self.splits)}")
        return {"id": record["id"], self.split_column: split}


def sample_items(items: pl.DataFrame, n: int | None) -> pl.DataFrame:
    """`n` of the items, the same on every machine: those with the lowest hash of the id, in the table's order.  None:
    all.  A smaller sample is part of a larger one."""
    if n is None or n >= items.height:
        return items
    hashes = [stable_hash(name) for name in items["id"]]
    chosen = sorted(sorted(range(items.height), key=hashes.__getitem__)[:n])
    return items[chosen]


def sample_in_turns(groups: Sequence[Sequence[T]], n: int) -> list[T]:
    """The first `n` members of the groups, one of each group in turn; sorted by group."""
    turns = sorted((turn, place) for place, group in enumerate(groups) for turn in range(len(group)))
    return [groups[place][turn] for place, turn in sorted((place, turn) for turn, place in turns[:n])]


def join_answers(items: pl.DataFrame, answers: pl.DataFrame) -> pl.DataFrame:
    """The answered items, each with its first answer."""
    first = answers.filter(pl.col("sample") == 0)
    return items.join(first, left_on="id", right_on="prompt_id", maintain_order="left")


def coverage(items: pl.DataFrame, answered: int) -> dict[str, Any]:
    """The number of answered items: `status` complete, partial or unanswered, and then a reason."""
    problems = dict(items["problem"].drop_nulls().value_counts(sort=True).iter_rows())
    status = "unanswered" if not answered else "complete" if answered == items.height else "partial"
    return {
        "status": status,
        "reason": _why_unanswered(items.height, problems) if status == "unanswered" else None,
        "items": items.height,
        "answered": answered,
        "missing": items.height - answered,
        "coverage": {"items": items.height, "answered": answered},
        "problems": problems,
    }


def _why_unanswered(items: int, problems: Mapping[str, int]) -> str:
    if not items:
        return "the benchmark has no items"
    if sum(problems.values()) == items:
        return f"no item is usable: {', '.join(f'{reason} ({n})' for reason, n in problems.items())}"
    return "no item was answered"
