"""Multiple choice, whatever the benchmark: which option an answer names, how many are right, and what they cost.

An item without an answer is missing and lowers the coverage; it is never counted as wrong.  The average is micro, over
all answered items, as published (reference/evaluation.md 1.7).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import polars as pl

from evaluation.benchmarks.cost import COSTS, cost
from evaluation.generation.controls import places, rotated
from evaluation.generation.ledger import PROMPT_TOKENS
from evaluation.statistics import Proportion, bootstrap_mean
from training.grading.parsers import Parsed, ParserName, normalised, parse

LETTERS = "ABCD"
SPAN_BINS = ("0", "1", "2", "3", ">3")


def with_options(question: str, options: Sequence[str]) -> str:
    """The question, and a line with its letter for each option."""
    return "\n".join([question, *(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))])


def prompt_columns(shown: Sequence[Mapping[str, Any]], parser: ParserName) -> list[pl.Series]:
    """What a prompt table tells of its items: `options` in order, and `reference`, which items with the same answer
    share: the letter, or the option's text where that is what is read.
    """
    told = [(row["options"], LETTERS.index(row["answer"])) for row in shown]
    texts = [normalised(options[right]) if parser == "option_text" else LETTERS[right] for options, right in told]
    options = pl.Series("options", [options for options, _ in told], pl.List(pl.String))
    return [options, pl.Series("reference", texts, pl.String)]


def graded(
    table: pl.DataFrame, answers: pl.DataFrame, parser: ParserName, split: str, control: str = "none"
) -> pl.DataFrame:
    """One row per answered item: what was parsed, by which rule, whether it is right, and what the answer cost.

    table: id, options, answer (a letter), problem and the column `split`.  Answers to rotated options (control
    `options_1` to `options_3`) are read against the options as they were shown; `parsed` is the item's own letter.
    """
    told = table.join(answers.filter(pl.col("sample") == 0), left_on="id", right_on="prompt_id", maintain_order="left")
    read = [_read(parser, said, options, control) for said, options in told.select("text", "options").iter_rows()]
    counted = [name for name in (PROMPT_TOKENS, *COSTS) if name in told.columns]
    return told.select(
        "id",
        split,
        "answer",
        "text",
        pl.Series("parsed", [p.letter for p in read], pl.String),
        pl.Series("rule", [p.rule for p in read], pl.String),
        pl.col("spans").list.len().cast(pl.Int64).alias("spans"),
        *counted,
    ).with_columns((pl.col("parsed") == pl.col("answer")).fill_null(False).alias("correct"))


def report(
    table: pl.DataFrame, answers: pl.DataFrame, parser: ParserName, split: str, splits: Sequence[str], control: str
) -> dict[str, Any]:
    """Accuracy per split and micro average with Wilson intervals, what is missing or unparsed, spans, cost per answer.

    Without a single answer the accuracies are null, and `reason` says why.
    """
    rows = graded(table, answers, parser, split, control)
    parsed = rows.filter(pl.col("parsed").is_not_null())
    average = accuracy(rows)
    return {
        "parser": parser,
        "control": control,
        **coverage(table, rows.height),
        "splits": accuracy_by(rows, split, splits),
        "average": average.as_dict(),
        "among_parsed": accuracy(parsed).as_dict(),
        "unparsed": {"n": rows.height, "count": rows.height - parsed.height},
        "rules": dict(rows["rule"].value_counts(sort=True).iter_rows()),
        "parsers": {
            name: accuracy(scored).as_dict() | {"unparsed": scored["parsed"].null_count()}
            for name in get_args(ParserName)
            for scored in [graded(table, answers, name, split, control)]
        },
        "spans": {name: span_usage(rows.filter(pl.col(split) == name)) for name in splits},
        "cost": cost(rows, average.value),
    }


def coverage(table: pl.DataFrame, answered: int) -> dict[str, Any]:
    """How many of the items were answered: `status` complete, partial or unanswered, and then a reason."""
    problems = dict(table["problem"].drop_nulls().value_counts(sort=True).iter_rows())
    status = "unanswered" if not answered else "complete" if answered == table.height else "partial"
    return {
        "status": status,
        "reason": why_unanswered(table.height, problems) if status == "unanswered" else None,
        "items": table.height,
        "answered": answered,
        "missing": table.height - answered,
        "coverage": {"items": table.height, "answered": answered},
        "problems": problems,
    }


def why_unanswered(items: int, problems: Mapping[str, int]) -> str:
    """Why a table of items has no answer at all."""
    if not items:
        return "the benchmark has no items"
    if sum(problems.values()) == items:
        return f"no item can be asked: {', '.join(f'{reason} ({n})' for reason, n in problems.items())}"
    return "no item was answered"


def accuracy(rows: pl.DataFrame) -> Proportion:
    return Proportion(int(rows["correct"].sum()), rows.height)


def accuracy_by(rows: pl.DataFrame, split: str, splits: Iterable[str]) -> dict[str, dict[str, Any]]:
    return {name: accuracy(rows.filter(pl.col(split) == name)).as_dict() for name in splits}


def span_usage(rows: pl.DataFrame) -> dict[str, Any]:
    """Latent spans per answer, counted on generated tokens: mean with interval, and the share of each number."""
    counted = Counter(str(n) if n <= 3 else ">3" for n in rows["spans"])
    shares = {name: counted[name] / rows.height if rows.height else None for name in SPAN_BINS}
    return bootstrap_mean(rows["spans"].to_list()).as_dict() | {"shares": shares}


def _read(parser: ParserName, said: str, options: Sequence[str], control: str) -> Parsed:
    by = places(control)
    parsed = parse(parser, said, dict(zip(LETTERS, rotated(options, by), strict=False)))
    if parsed.letter is None:
        return parsed
    return replace(parsed, letter=rotated(LETTERS, by)[LETTERS.index(parsed.letter)])
