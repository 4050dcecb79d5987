"""Scoring of answers from elsewhere, in a JSON Lines file: no model, no torch, no Dagster.

A line that cannot be read is reported by its number and counts as missing, never as wrong.
"""

import json
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
    ids: set[str] = set()
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    rows.append(benchmark.grade_record(_record(line, ids), parser))
                except ValueError as error:
                    malformed.append({"line": number, "problem": str(error)})
    if not rows:
        first = f"; line {malformed[0]['line']}: {malformed[0]['problem']}" if malformed else ""
        help_ = "future-l1 score --help has the format of a line"
        raise ValueError(f"{path}: none of {len(malformed)} lines can be scored{first} ({help_})")
    items = pl.DataFrame({"problem": [None] * len(rows) + [MALFORMED] * len(malformed)}, {"problem": pl.String})
    graded = pl.DataFrame([{field: value for field, value in row.items() if field != "id"} for row in rows])
    report = benchmark.report(items, StoredAnswers(pl.DataFrame(schema=ANSWERS)), graded)
    if report["status"] == "unjudged":
        report["reason"] = f"none of {items.height} lines has a reply with marks in it"
    return {field: value for field, value in report.items() if field not in NOT_SCORED} | {
        "rows": rows,
        "malformed": malformed,
    }


def _record(line: bytes, ids: set[str]) -> dict[str, Any]:
    """The object in a line; its id joins `ids`.  Raises ValueError where it is none, or has no id of its own."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested too deeply
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"a {type(record).__name__}, not an object")
    if not isinstance(record.get("id"), str | int):
        raise ValueError("no id")
    if (name := json.dumps(record["id"])) in ids:
        raise ValueError(f"id {record['id']!r} is repeated; its first line counts")
    ids.add(name)
    return record
