"""Marks from 0 to 5 by a judge, whatever the benchmark: repeated judgements, how they agree, and what they cover.

An item's mark is the mean of the judgements that gave one.  What nobody marked is null and lowers the coverage; a score
is complete only if every judgement of every item is there, and where there is none it is null with a reason, never 0.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import polars as pl

from evaluation.benchmarks.choice import coverage
from evaluation.statistics import agreement
from training.grading.judge import Judge, prompt_hash

LOWEST, HIGHEST = 0, 5
Marks = TypeVar("Marks")


def repeated(ask: Callable[[int], Sequence[Marks | None]], judgements: int) -> list[list[Marks | None]]:
    """What `ask` (the judgement's number to the items' marks) says in so many judgements, by item."""
    return [list(item) for item in zip(*(ask(number) for number in range(judgements)), strict=True)]


def mark_columns(names: Sequence[str], judged: Sequence[Sequence[Sequence[int] | None]]) -> list[pl.Series]:
    """For each name the items' means, and as `{name}_marks` their single judgements in order, null for one not given.

    judged: for each item, for each judgement, its marks in the order of the names.
    """
    columns = []
    for place, name in enumerate(names):
        marks = [[None if given is None else given[place] for given in item] for item in judged]
        columns.append(pl.Series(name, [_mean(item) for item in marks], pl.Float64))
        columns.append(pl.Series(f"{name}_marks", marks, pl.List(pl.Int64)))
    return columns


def judged_coverage(table: pl.DataFrame, rows: pl.DataFrame, mark: str, judge: Judge | None) -> dict[str, Any]:
    """`coverage` of answers, and what of them is marked: `status` complete, partial or unjudged, and then a reason."""
    told = coverage(table, rows.height)
    marks = rows[f"{mark}_marks"]
    judged, given, asked = (
        rows[mark].count(),
        int(marks.list.drop_nulls().list.len().sum()),
        int(marks.list.len().sum()),
    )
    complete = told["status"] == "complete" and given == asked
    counted = {"judged": judged, "judgements": {"asked": asked, "given": given}}
    return told | {
        "status": "unjudged" if not judged else "complete" if complete else "partial",
        "reason": None if judged else told["reason"] or _why_unjudged(rows.height, judge),
        "coverage": told["coverage"] | counted,
    }


def judge_facts(judge: Judge | None, prompt: str, judgements: int, **mode: Any) -> dict[str, Any] | None:
    """Who judged, by which prompt, how often and in which mode; None where nobody was asked."""
    if judge is None:
        return None
    return {"model": judge.settings.model, "prompt": prompt_hash(prompt), "judgements": judgements, **mode}


def agreements(rows: pl.DataFrame, names: Sequence[str], judgements: int) -> dict[str, Any] | None:
    """Quadratic weighted kappa between the judgements, by mark; None where there is only one."""
    if judgements == 1:
        return None
    return {name: agreement(rows[f"{name}_marks"].to_list()) for name in names}


def _mean(marks: Sequence[int | None]) -> float | None:
    given = [mark for mark in marks if mark is not None]
    return sum(given) / len(given) if given else None


def _why_unjudged(answers: int, judge: Judge | None) -> str:
    if judge is None:
        return "no judge was named"
    counts: Mapping[str, int] = judge.counts
    told = [f"{counts[name]} {name}" for name in ("requests", "unreachable", "refused", "malformed") if counts[name]]
    return f"the judge gave no mark to any of {answers} answers" + (f" ({', '.join(told)})" if told else "")
