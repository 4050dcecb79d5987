"""Multiple choice, for any benchmark: the option that an answer names, the share of correct answers, and their cost.

An item without an answer is missing and lowers the coverage; it never counts as wrong.  The average is micro, over all
answered items, as published (reference/evaluation.md 1.7).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import dataframely as dy
import polars as pl

from evaluation.benchmarks.benchmark import Benchmark, StoredAnswers, coverage, join_answers
from evaluation.benchmarks.cost import COSTS, cost
from evaluation.benchmarks.items import string_field
from evaluation.benchmarks.options import LETTERS, PARSERS, ChoiceSettings, grade_answer
from evaluation.generation.controls import places, rotated
from evaluation.statistics import Proportion, bootstrap_mean
from training.data.prompts import PROMPT_TOKENS
from training.grading.parsers import ParserName, normalised

SPAN_BINS = ("0", "1", "2", "3", ">3")


class GradedTable(dy.Schema):
    """One graded answer; its split is a column of the items."""

    id = dy.String(primary_key=True, description="id of the item")
    answer = dy.String(description="letter of the correct option")
    text = dy.String(description="text of the answer")
    parsed = dy.String(nullable=True, description="letter that the answer names; null: none could be read")
    rule = dy.String(description="rule of the parser that read it")
    correct = dy.Bool(description="whether `parsed` is the correct letter")
    parsed_by = dy.Struct(
        {name: dy.String(nullable=True) for name in PARSERS}, description="letter that each parser reads"
    )
    spans = dy.Int64(description="number of latent spans")
    prompt_tokens = dy.Int64(description="number of tokens of the prompt, text and vision")
    text_tokens = dy.Int64(description="number of text tokens")
    latent_tokens = dy.Int64(description="number of latents that were fed back")
    control_tokens = dy.Int64(description="number of latent_start, latent_end and end-of-turn tokens")
    prefill_seconds = dy.Float64(description="its share of its batch's prefill")
    decode_seconds = dy.Float64(description="its share of its batch's decoding")
    finished = dy.Bool(description="false: cut by max_new_tokens")


@dataclass(frozen=True)
class MultipleChoice(Benchmark):
    """Scoring by `settings.parser`."""

    settings: ChoiceSettings
    judged = False

    def reference(self, row: Mapping[str, Any]) -> str:
        """The letter, or the option's text where that is what the parser reads."""
        if self.settings.parser == "option_text":
            return normalised(row["options"][LETTERS.index(row["answer"])])
        return str(row["answer"])

    def prompts(self, items: pl.DataFrame) -> pl.DataFrame:
        """With `options` in order, for the controls."""
        return super().prompts(items).with_columns(items.filter(pl.col("problem").is_null())["options"])

    def grade(self, items: pl.DataFrame, stored: StoredAnswers) -> pl.DataFrame:
        """One row per answered item: what was parsed, by which rule, whether it is correct, and what the answer cost.

        items: id, options, answer (a letter) and the split column.  Answers to rotated options (controls `options_1`
        to `options_3`) are read against the options in the order of the prompt; `parsed` is the item's own letter.
        `parsed_by` has the letter of each parser.
        """
        rows, rotation = join_answers(items, stored.answers), places(stored.control)
        parser = self.settings.parser
        grades = [
            grade_answer(parser, text, dict(zip(LETTERS, rotated(options, rotation), strict=False)), answer, rotation)
            for text, options, answer in rows.select("text", "options", "answer").iter_rows()
        ]
        schema: dict[str, Any] = {"parsed": pl.String, "rule": pl.String, "correct": pl.Boolean, "parsed_by": PARSED_BY}
        costs = [name for name in (PROMPT_TOKENS, *COSTS) if name in rows.columns]
        spans = pl.col("spans").list.len().cast(pl.Int64).alias("spans")
        answered = rows.select("id", self.split_column, "answer", "text", spans, *costs)
        return pl.concat([answered, pl.DataFrame(grades, schema=schema)], how="horizontal")

    def grade_record(self, record: Mapping[str, Any], parser: ParserName) -> dict[str, Any]:
        """`answer` (a letter), the split column, `response`, and for `option_text` `options` (letter to text)."""
        answer = string_field(record, "answer").strip().upper()
        if answer not in tuple(LETTERS):
            raise ValueError(f"answer is {record['answer']!r}, not a letter A-D")
        row = self.record_split(record) | {"answer": answer}
        response, options = string_field(record, "response"), {}
        if isinstance(record.get("options"), dict) and all(isinstance(o, str) for o in record["options"].values()):
            options = record["options"]
        elif parser == "option_text":
            raise ValueError("the parser option_text needs `options`, an object of letter and text")
        return row | grade_answer(self.settings.parser, response, options, answer)

    def report(self, items: pl.DataFrame, stored: StoredAnswers, graded: pl.DataFrame) -> dict[str, Any]:
        """Accuracy per split and micro average with Wilson intervals, missing and unparsed answers, accuracy under
        every parser, and, where the answers were generated here, spans and cost per answer.
        """
        parsed = graded.filter(pl.col("parsed").is_not_null())
        average = accuracy(graded)
        report = {
            "benchmark": self.name,
            "layout": self.settings.layout,
            "parser": self.settings.parser,
            "control": stored.control,
            **coverage(items, graded.height),
            "splits": accuracy_by(graded, self.split_column, self.splits),
            "average": average.as_dict(),
            "among_parsed": accuracy(parsed).as_dict(),
            "unparsed": {"n": graded.height, "count": graded.height - parsed.height},
            "rules": dict(graded["rule"].value_counts(sort=True).iter_rows()),
            "parsers": {name: _under(graded, name) for name in PARSERS},
        }
        if "spans" in graded.columns:
            report["spans"] = {
                name: span_usage(graded.filter(pl.col(self.split_column) == name)) for name in self.splits
            }
            report["cost"] = cost(graded, average.value)
        return report


PARSED_BY: pl.DataType = pl.Struct(dict.fromkeys(PARSERS, pl.String))


def accuracy(graded: pl.DataFrame) -> Proportion:
    return Proportion(int(graded["correct"].sum()), graded.height)


def accuracy_by(graded: pl.DataFrame, split: str, splits: Iterable[str]) -> dict[str, dict[str, Any]]:
    return {name: accuracy(graded.filter(pl.col(split) == name)).as_dict() for name in splits}


def span_usage(graded: pl.DataFrame) -> dict[str, Any]:
    """Latent spans per answer, counted on generated tokens: mean with interval, and the share of each number."""
    counts = Counter(str(n) if n <= 3 else ">3" for n in graded["spans"])
    shares = {name: counts[name] / graded.height if graded.height else None for name in SPAN_BINS}
    return bootstrap_mean(graded["spans"].to_list()).as_dict() | {"shares": shares}


def _under(graded: pl.DataFrame, parser: ParserName) -> dict[str, Any]:
    """Accuracy and unparsed answers under one parser."""
    letters = graded["parsed_by"].struct.field(parser).cast(pl.String)
    correct = int((letters == graded["answer"]).sum())
    return Proportion(correct, graded.height).as_dict() | {"unparsed": letters.null_count()}
