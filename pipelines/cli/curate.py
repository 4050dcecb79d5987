"""`future-l1 curate`: somebody's own shards, or the profile's."""

from pathlib import Path
from typing import Any

import click

from pipelines.cli.common import CONSOLE, current_profile, fail_if, run_steps, warn
from pipelines.curate import WORK, broken_shards
from pipelines.curate import curate as curate_shards
from pipelines.jobs import SELECT, plan
from pipelines.profile import Profile, overlaid
from training.storage.artifacts import checkpoint_folder


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
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="The data set's folder.")
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
    click.echo(f"Tables   {out}")
    fail_if(broken)


def curation_profile(
    profile: Profile,
    out: Path,
    *,
    trajectories: str,
    clips: tuple[str, ...],
    endpoint: tuple[str, ...] = (),
    model: str | None = None,
    base: str | None = None,
    judge: str | None = None,
    judge_model: str | None = None,
    futurebench: str | None = None,
    twiffbench: str | None = None,
    top: int | None = None,
    samples_per_round: int | None = None,
    full_sampling_fraction: float | None = None,
    concurrency: int | None = None,
    timeout: float | None = None,
    image_factor: int | None = None,
    retry_refused: bool = False,
) -> Profile:
    """The profile with the user's source, model and judge; `out`/work is its home.

    Raises ValueError where no model, or half of a judge, is named.
    """
    if bool(endpoint) == bool(base):
        raise ValueError("name the model: either --endpoint and --model, or --base")
    if endpoint and not model:
        raise ValueError("an endpoint needs --model, the name by which it serves the base model")
    if bool(judge) != bool(judge_model):
        raise ValueError("--judge and --judge-model belong together")
    benchmarks = {"futurebench": futurebench, "twiffbench": twiffbench}
    folders = {name: folder for name, folder in benchmarks.items() if folder}
    pace = {name: v for name, v in (("concurrency", concurrency), ("timeout", timeout)) if v is not None}
    sampling = {"samples_per_round": samples_per_round, "full_sampling_fraction": full_sampling_fraction}
    curation = {
        "endpoint": {"base_urls": endpoint, "model": model, "image_factor": image_factor, **pace} if endpoint else None,
        "retry_refused": retry_refused,
        "disjoint_from": tuple(folders),
        "selection": {} if top is None else {"top": top},
        **{name: value for name, value in sampling.items() if value is not None},
    }
    return overlaid(
        profile,
        {
            "name": out.name,
            "home": out.resolve() / WORK,
            "device": "auto",
            "toyworld": None,
            "toy_judge": False,
            "judge": {"base_url": judge, "model": judge_model, **pace} if judge else None,
            # No limit on the user's rows: counts and reasons are in the tables.
            "source": {"trajectories": trajectories, "clips": clips, "quarantine_limit": 1.0, **folders},
            "curation": curation,
            **({"base": str(checkpoint_folder(Path(base)))} if base else {}),
        },
    )
