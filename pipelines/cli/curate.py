"""`future-l1 curate`: somebody's own shards, or the profile's."""

from pathlib import Path
from typing import Any

import click

from pipelines.cli.common import CONSOLE, current_profile, fail_if, run_steps, warn
from pipelines.curate import broken_shards, curation_profile
from pipelines.curate import curate as curate_shards
from pipelines.jobs import SELECT, plan


@click.command()
@click.option(
    "--trajectories", metavar="DIR", help="Shards: a folder, a fsspec URL, or hf://datasets/ORG/NAME@REVISION."
)
@click.option("--clips", multiple=True, metavar="DIR", help="A folder or fsspec URL of clips; may be repeated.")
@click.option("--endpoint", multiple=True, metavar="URL", help="An OpenAI-compatible server; may be repeated.")
@click.option("--model", metavar="NAME", help="The name by which the endpoint serves the model that answers.")
@click.option("--base", metavar="DIR", help="Instead of an endpoint: the model's folder.")
@click.option("--judge", metavar="URL", help="The judge's OpenAI-compatible server.")
@click.option("--judge-model", metavar="NAME")
@click.option("--futurebench", metavar="DIR", help="Exclude rows that overlap this benchmark.")
@click.option("--twiffbench", metavar="DIR", help="Exclude rows that overlap this benchmark.")
@click.option("--top", type=click.IntRange(min=1), metavar="K", help="Publish at most K rows.")
@click.option(
    "--samples-per-round", type=click.IntRange(min=1), metavar="N", help="Answers of a row and condition at a time."
)
@click.option(
    "--full-sampling-fraction",
    type=click.FloatRange(0, 1),
    metavar="F",
    help="Fraction of rows answered in full; 1 turns curtailment off.",
)
@click.option("--concurrency", type=click.IntRange(min=1), help="Requests in flight, at the endpoint and the judge.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds for one attempt of a request.")
@click.option("--image-factor", type=click.IntRange(4, 256), metavar="PX", help="Pixels a side of a vision token.")
@click.option("--retry-refused", is_flag=True, help="Send refused prompts again, such as those of unreadable frames.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Where the tables go.")
def curate(out: Path | None, trajectories: str | None, **options: Any) -> None:
    """Curate your own shards into --out; without options, the profile's up to the sets to train on.

    Keys come from the environment: FUTURE_L1_ENDPOINT_API_KEY, FUTURE_L1_JUDGE_API_KEY (else OPENAI_API_KEY), HF_TOKEN.
    Settings without an option are the profile's, by default "paper". Started again, the command resumes.

    \b
    Example:
      future-l1 curate --trajectories shards --clips clips --endpoint http://127.0.0.1:8000/v1 \\
        --model qwen --judge http://127.0.0.1:8001/v1 --judge-model judge --out curated
    """
    if out is None and trajectories is None and not any(options.values()):
        profile = current_profile()
        steps = plan(profile)
        last = next(number for number, step in enumerate(steps) if step.stage == SELECT)
        run_steps(profile, steps[: last + 1])
        fail_if(broken_shards(profile))
        return
    if out is None or trajectories is None or not options["clips"]:
        raise click.UsageError("your own shards need --trajectories, --clips and --out")
    profile = curation_profile(current_profile(default="paper"), out, trajectories=trajectories, **options)
    summary, failed, broken = curate_shards(profile, out, CONSOLE)
    warn(failed)
    CONSOLE.print_json(data=summary, ensure_ascii=True)
    CONSOLE.print(f"Tables   {out}", soft_wrap=True, highlight=False, markup=False)
    fail_if(broken)
