"""`future-l1 score`: answers from elsewhere."""

import json
from pathlib import Path

import click


@click.command()
@click.argument("benchmark", type=click.Choice(["futurebench", "twiffbench"]))
@click.argument("answers", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--parser", type=click.Choice(["strict", "release", "release_direct", "option_text"]), default="strict")
def score(benchmark: str, answers: Path, parser: str) -> None:
    """Score answers that were made anywhere: a JSONL file, one answer a line. Prints JSON."""
    from evaluation.score import score_file

    click.echo(json.dumps(score_file(benchmark, answers, parser), indent=1))  # type: ignore[arg-type]
