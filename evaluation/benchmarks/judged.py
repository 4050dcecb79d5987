"""Marks from 0 to 5 by a judge, for any benchmark: the response as the judge reads it, repeated judgements, their
agreement and their coverage.

An item's mark is the mean of the judgements that gave one.  An item that nobody marked is null and lowers the coverage;
a score is complete only if every judgement of every item is there, and without any it is null with a reason, never 0.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import dataframely as dy
import polars as pl

from evaluation.benchmarks.benchmark import Benchmark, StoredAnswers, coverage, join_answers
from evaluation.benchmarks.cost import cost
from evaluation.benchmarks.items import string_field
from evaluation.benchmarks.judge_messages import JudgedSettings, Marks, mean_mark
from evaluation.statistics import agreement, bootstrap_mean
from training.grading.judge import Judge, prompt_hash
from training.grading.parsers import ParserName, normalised

LOWEST, HIGHEST = 0, 5
AVERAGE = "average"


def mark_column(subject: str) -> dy.Float64:
    return dy.Float64(
        nullable=True,
        min=LOWEST,
        max=HIGHEST,
        description=f"judge's mean mark of the {subject}, {LOWEST} to {HIGHEST}; null: unjudged",
    )


def marks_column(subject: str) -> dy.List:
    mark = dy.Int64(nullable=True, min=LOWEST, max=HIGHEST)
    return dy.List(mark, description=f"judge's marks of the {subject}, in order")


@dataclass(frozen=True)
class JudgedBenchmark(Benchmark):
    """Scoring by a judge.

    A benchmark defines the item as the judge sees it (`payload`), the marks in order, and the request for them (`ask`).
    """

    settings: JudgedSettings
    judged = True
    marks: ClassVar[tuple[str, ...]]
    """Names of the marks of one judgement; where there are several, their average is a further one."""
    judge_prompt: ClassVar[str]
    score_table: ClassVar[type[dy.Schema]]
    reference_column: ClassVar[str]
    """Items whose normalised texts there are equal share their `reference`."""

    @abstractmethod
    def payload(self, row: Mapping[str, Any], judge: Judge) -> Iterator[dict[str, Any]]:
        """The content parts of the judge's user message on an answered item."""

    @abstractmethod
    def ask(self, judge: Judge, payloads: Sequence[list[dict[str, Any]]], judgement: int) -> Sequence[Marks | None]:
        """The marks of each payload in judgement number so many."""

    @abstractmethod
    def read_reply(self, reply: str, parser: ParserName) -> Marks | None:
        """The marks in a judge's stored reply."""

    def reference(self, row: Mapping[str, Any]) -> str:
        return normalised(row[self.reference_column])

    def grade(self, items: pl.DataFrame, stored: StoredAnswers) -> pl.DataFrame:
        """The judge's marks of every answered item, each a mean over `*_marks`; null without a judge."""
        rows, judge, n = join_answers(items, stored.answers), stored.judge, self.settings.judge_samples
        judgements: list[Sequence[Marks | None]] = [[None] * rows.height] * n
        if judge is not None:
            payloads = [list(self.payload(row, judge)) for row in rows.iter_rows(named=True)]
            judgements = [self.ask(judge, payloads, number) for number in range(n)]
        by_item = list(zip(*judgements, strict=True))
        return self.score_table.validate(rows.select("id", self.split_column, *self._mark_columns(by_item)))

    def grade_record(self, record: Mapping[str, Any], parser: ParserName) -> dict[str, Any]:
        """`reply` (of a judge) and the split column; the parser `release` reads the reply as the public release does,
        every other one by its schema."""
        marks = self.read_reply(string_field(record, "reply"), parser) or [None] * len(self.marks)
        row = self.record_split(record)
        for name, mark in zip(self.marks, marks, strict=True):
            row |= {name: mark, f"{name}_marks": [mark]}
        return row

    def report(self, items: pl.DataFrame, stored: StoredAnswers, graded: pl.DataFrame) -> dict[str, Any]:
        """Means with bootstrap intervals, overall and per split, with their coverage, agreement and judge."""
        marked = graded.filter(pl.col(self.marks[0]).is_not_null())
        splits = self.splits or tuple(marked[self.split_column].unique().sort())
        return {
            "benchmark": self.name,
            "layout": self.settings.layout,
            "control": stored.control,
            **self._coverage(items, stored, graded),
            **self._means(marked),
            "splits": {split: self._means(marked.filter(pl.col(self.split_column) == split)) for split in splits},
            "agreement": self._agreement(graded),
            "judge": self._judge_facts(stored.judge),
            "cost": cost(stored.answers),
        }

    def _mark_columns(self, by_item: Sequence[Sequence[Marks | None]]) -> list[pl.Series]:
        columns = []
        for place, name in enumerate(self.marks):
            marks = [[None if marks is None else marks[place] for marks in item] for item in by_item]
            columns.append(pl.Series(name, [mean_mark(item) for item in marks], pl.Float64))
            columns.append(pl.Series(f"{name}_marks", marks, pl.List(pl.Int64)))
        return columns

    def _means(self, marked: pl.DataFrame) -> dict[str, Any]:
        """The plain means over items, as published."""
        means = {name: bootstrap_mean(marked[name].to_list()).as_dict() for name in self.marks}
        if len(self.marks) > 1:
            average = marked.select(pl.mean_horizontal(self.marks).alias(AVERAGE))[AVERAGE]
            means[AVERAGE] = bootstrap_mean(average.to_list()).as_dict()
        return means

    def _coverage(self, items: pl.DataFrame, stored: StoredAnswers, graded: pl.DataFrame) -> dict[str, Any]:
        """`coverage` of answers, and of their marks: `status` complete, partial or unjudged, and then a reason."""
        answered = coverage(items, graded.height)
        judgements, judged = graded[f"{self.marks[0]}_marks"].list, graded[self.marks[0]].count()
        counts = {"expected": int(judgements.len().sum()), "received": int(judgements.drop_nulls().list.len().sum())}
        complete = answered["status"] == "complete" and counts["received"] == counts["expected"]
        return answered | {
            "status": "unjudged" if not judged else "complete" if complete else "partial",
            "reason": None if judged else answered["reason"] or _why_unjudged(graded.height, stored.judge),
            "coverage": answered["coverage"] | {"judged": judged, "judgements": counts},
        }

    def _agreement(self, graded: pl.DataFrame) -> dict[str, Any] | None:
        """Quadratic weighted kappa between the judgements, by mark; None where there is only one."""
        if self.settings.judge_samples == 1:
            return None
        return {name: agreement(graded[f"{name}_marks"].to_list()) for name in self.marks}

    def _judge_facts(self, judge: Judge | None) -> dict[str, Any] | None:
        """The judge, its prompt, the number of its judgements and its mode; None where no judge was named."""
        if judge is None:
            return None
        mode = self.settings.model_dump(mode="json", include={"judge_samples", "judge_sees_images", "ground_truth"})
        return {"model": judge.settings.model, "prompt": prompt_hash(self.judge_prompt), **mode}


def _why_unjudged(answers: int, judge: Judge | None) -> str:
    if judge is None:
        return "no judge was named"
    counts: Mapping[str, int] = judge.counts
    details = [f"{counts[name]} {name}" for name in ("requests", "unreachable", "refused", "malformed") if counts[name]]
    return f"the judge gave no mark to any of {answers} answers" + (f" ({', '.join(details)})" if details else "")
