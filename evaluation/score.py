"""Scoring of answers from elsewhere, in a JSON Lines file: no model, no torch, no Dagster.

A line that cannot be read is reported by its number and counts as missing, never as wrong.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from evaluation.benchmarks.benchmark import StoredAnswers
from evaluation.benchmarks.registry import BENCHMARKS, make_benchmark
from training.data.prompts import ANSWERS
from training.grading.parsers import ParserName

MALFORMED = "malformed line"
REPLY_PARSERS = ("strict", "release")
NOT_SCORED = ("layout", "control", "cost")
"""Keys of a report that answers from elsewhere do not have."""


def score_file(name: str, path: Path, parser: ParserName) -> dict[str, Any]:
    """The report of a whole file, with `rows` (a row per scored line) and `malformed` (line and problem).

    `parser` reads the answers to multiple choice; replies of a judge are read by their schema, or with `release` as the
    public release reads them.  Raises ValueError where no line can be scored.
    """
    if BENCHMARKS[name][0].judged and parser not in REPLY_PARSERS:
        raise ValueError(f"{name} is judged: replies are read by {' or '.join(REPLY_PARSERS)}, not by {parser}")
    benchmark = make_benchmark(name, {} if BENCHMARKS[name][0].judged else {"parser": parser})
    rows: list[dict[str, Any]] = []
    malformed: list[dict[str, Any]] = []
    for number, record in _records(path, malformed):
        try:
            rows.append(benchmark.grade_record(record, parser))
        except ValueError as error:
            malformed.append({"line": number, "problem": str(error)})
    malformed.sort(key=lambda line: line["line"])
    if not rows:
        first = f"; line {malformed[0]['line']}: {malformed[0]['problem']}" if malformed else ""
        raise ValueError(f"{path}: none of {len(malformed)} lines can be scored{first} (future-l1 score --help has the "
                         "format of a line)")  # fmt: skip
    items = pl.DataFrame({"problem": [None] * len(rows) + [MALFORMED] * len(malformed)}, {"problem": pl.String})
    graded = pl.DataFrame([{field: value for field, value in row.items() if field != "id"} for row in rows])
    report = benchmark.report(items, StoredAnswers(pl.DataFrame(schema=ANSWERS)), graded)
    if report["status"] == "unjudged":
        report["reason"] = f"none of {items.height} lines has a reply with marks in it"
    return {field: value for field, value in report.items() if field not in NOT_SCORED} | {
        "rows": rows,
        "malformed": malformed,
    }


def _records(path: Path, malformed: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects with an id of their own; blank lines are skipped, other lines go to `malformed`."""
    ids: set[str] = set()
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested too deeply
                malformed.append({"line": number, "problem": f"not JSON: {error}"})
                continue
            problem = _identity_problem(record, ids)
            if problem:
                malformed.append({"line": number, "problem": problem})
            else:
                ids.add(json.dumps(record["id"]))
                yield number, record


def _identity_problem(record: Any, ids: set[str]) -> str | None:
    if not isinstance(record, dict):
        return f"a {type(record).__name__}, not an object"
    if not isinstance(record.get("id"), str | int):
        return "no id"
    return f"id {record['id']!r} is repeated; its first line counts" if json.dumps(record["id"]) in ids else None
