"""Scores answers that were produced anywhere, from a JSONL file: no model, no torch, no Dagster.

A line that cannot be read is reported by its number and counts as missing, never as wrong.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from evaluation.benchmarks.choice import LETTERS
from evaluation.benchmarks.futurebench import SPLITS
from evaluation.statistics import Proportion, bootstrap_mean
from training.grading.parsers import ParserName, parse
from training.grading.replies import Scores, read_scores, release_scores

Benchmark = Literal["futurebench", "twiffbench"]


class BadLineError(ValueError):
    """A line that is not a scorable record; the message says why."""


def score_file(benchmark: Benchmark, path: Path, parser: ParserName) -> dict[str, Any]:
    """The scores of a whole file.  `parser` reads FutureBench's answers; judges' replies are read by their schema, or
    with `release` as the public release reads them.
    """
    malformed: list[dict[str, Any]] = []
    records = list(_records(path, malformed))
    if benchmark == "futurebench":
        return _futurebench(records, parser, malformed)
    return _twiffbench(records, release_scores if parser == "release" else read_scores, malformed)


def _futurebench(
    records: list[tuple[int, dict[str, Any]]], parser: ParserName, malformed: list[dict[str, Any]]
) -> dict[str, Any]:
    rows, right, asked = [], Counter[str](), Counter[str]()
    for number, record in records:
        try:
            answer = _string(record, "answer").strip().upper()
            if answer not in tuple(LETTERS):
                raise BadLineError(f"answer is {record['answer']!r}, not a letter A-D")
            split, response = _string(record, "question_type"), _string(record, "response")
            parsed = parse(parser, response, _options(record, parser))
        except BadLineError as error:
            malformed.append({"line": number, "problem": str(error)})
            continue
        correct = parsed.letter == answer
        rows.append({"id": record["id"], "parsed": parsed.letter, "rule": parsed.rule, "correct": correct})
        right[split] += correct
        asked[split] += 1
    return {
        "benchmark": "futurebench",
        "parser": parser,
        "rows": rows,
        "splits": {split: Proportion(right[split], asked[split]).as_dict() for split in SPLITS},
        "average": Proportion(right.total(), asked.total()).as_dict(),
        "unparsed": sum(row["parsed"] is None for row in rows),
        "missing": len(malformed),
        "malformed": sorted(malformed, key=lambda line: line["line"]),
    }


def _twiffbench(
    records: list[tuple[int, dict[str, Any]]],
    read: Callable[[str], Scores | None],
    malformed: list[dict[str, Any]],
) -> dict[str, Any]:
    rows = []
    for number, record in records:
        try:
            marks = read(_string(record, "reply"))
            category = _string(record, "category")
        except BadLineError as error:
            malformed.append({"line": number, "problem": str(error)})
            continue
        row = {"id": record["id"], "category": category, "cot": None, "answer": None}
        rows.append(row | marks._asdict() if marks else row)
    judged = [row for row in rows if row["cot"] is not None]
    items = len(rows) + len(malformed)
    return {
        "benchmark": "twiffbench",
        "rows": rows,
        **_means(judged),
        "categories": {
            c: _means([r for r in judged if r["category"] == c]) for c in sorted({r["category"] for r in rows})
        },
        "coverage": {"items": items, "judged": len(judged)},
        "status": "unjudged" if not judged else "complete" if len(judged) == items else "partial",
        "reason": None if judged else f"none of {items} lines has a reply with marks in it",
        "missing": len(malformed),
        "malformed": sorted(malformed, key=lambda line: line["line"]),
    }


def _means(judged: list[dict[str, Any]]) -> dict[str, Any]:
    marks = {
        "cot": [row["cot"] for row in judged],
        "answer": [row["answer"] for row in judged],
        "average": [(row["cot"] + row["answer"]) / 2 for row in judged],
    }
    return {name: bootstrap_mean(values).as_dict() for name, values in marks.items()}


def _records(path: Path, malformed: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects with an id of their own; blank lines are nothing, other lines go to `malformed`."""
    seen: set[str] = set()
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested too deeply
                malformed.append({"line": number, "problem": f"not JSON: {error}"})
                continue
            problem = _identity_problem(record, seen)
            if problem:
                malformed.append({"line": number, "problem": problem})
            else:
                seen.add(json.dumps(record["id"]))
                yield number, record


def _identity_problem(record: Any, seen: set[str]) -> str | None:
    if not isinstance(record, dict):
        return f"a {type(record).__name__}, not an object"
    if not isinstance(record.get("id"), str | int):
        return "no id"
    return f"id {record['id']!r} is repeated; its first line counts" if json.dumps(record["id"]) in seen else None


def _string(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        raise BadLineError(f"{name} is {'absent' if value is None else 'not a string'}")
    return value


def _options(record: Mapping[str, Any], parser: ParserName) -> dict[str, str]:
    options = record.get("options")
    if isinstance(options, dict) and all(isinstance(option, str) for option in options.values()):
        return options
    if parser == "option_text":
        raise BadLineError("the parser option_text needs `options`, an object of letter and text")
    return {}
