"""`future-l1 score`: answers from elsewhere."""

import json
from pathlib import Path

import click

from evaluation.benchmarks.options import PARSERS
from evaluation.benchmarks.registry import BENCHMARKS
from evaluation.score import score_file
from pipelines.cli.common import FILE, NEW_FILE, make_room
from training.grading.parsers import ParserName
from training.storage.files import atomic_write


@click.command()
@click.option("--benchmark", type=click.Choice(list(BENCHMARKS)), required=True)
@click.option("--answers", type=FILE, metavar="FILE", required=True, help="JSON Lines, one answer a line.")
@click.option("--parser", type=click.Choice(PARSERS), default="strict", show_default=True,
              help="The parser of answers; of a judge's replies, release or strict.")  # fmt: skip
@click.option("--out", type=NEW_FILE, metavar="FILE", help="Where the JSON goes [standard output].")
def score(benchmark: str, answers: Path, parser: ParserName, out: Path | None) -> None:
    """Score answers from elsewhere, without a model; the result is JSON.

    A line is a JSON object with a unique `id`. Multiple choice (futurebench, seedbench): the split as `question_type`
    (hop1, hop2, hop3, hop5) or `level` (L1, L2, L3), `answer` (the correct letter), `response` (the model's text) and,
    for option_text and so that strict knows the options' texts, `options` (an object of letter and text). Judged
    (twiffbench, seedbench_open): the split as `category` or `level`, and `reply` (the judge's text, with JSON as
    {"reasoning": "...", "score": [3, 4]} for the chain and the answer; of seedbench_open "score" is one number).

    \b
    Example:
      future-l1 score --benchmark futurebench --answers answers.jsonl --parser strict --out scores.json
    """
    make_room(out, answers)
    report = json.dumps(score_file(benchmark, answers, parser), indent=1)
    if out is None:
        click.echo(report)
        return
    with atomic_write(out) as temporary:
        temporary.write_text(report + "\n", encoding="utf-8")
    click.echo(f"scores: {out}", err=True)
