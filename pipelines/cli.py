"""`future-l1`: the small command line, for what is one command's work. Everything else is in the UI."""

import json
from pathlib import Path

import click
import dagster as dg
from rich.console import Console

from assets.store import AssetStore
from pipelines import ui as dagster_ui
from pipelines.definitions import build_definitions
from pipelines.driver import StepFailedError, run_plan
from pipelines.instance import AlreadyRunningError
from pipelines.jobs import RECURATE, TRAIN_RL, TRAIN_SFT, Step, plan
from pipelines.picture import mermaid
from pipelines.profile import PROFILE_VARIABLE, Profile, load_profile, profile_from_environment
from pipelines.summary import finish

CONSOLE = Console()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def main() -> None:
    """From TwiFF trajectories to a latent-reasoning video model and its benchmark reports.

    FUTURE_L1_HOME says where everything is kept (.future-l1), FUTURE_L1_PROFILE which profile counts: demo, paper, or
    the path of a TOML overlay.
    """


@main.command()
@click.option("--seed", type=int, help="Draw other worlds and other training randomness (SEED, else 0).")
def demo(seed: int | None) -> None:
    """Make everything, from the source to the comparison, and print the numbers."""
    _everything(_profile(seed))


@main.command()
@click.option("--seed", type=int, help="As for demo.")
def reports(seed: int | None) -> None:
    """As demo, with latent necessity for every model on every item."""
    profile = _profile(seed)
    necessity = profile.benchmarks.necessity.model_copy(update={"models": profile.checkpoints.models, "n": None})
    benchmarks = profile.benchmarks.model_copy(update={"necessity": necessity})
    _everything(profile.model_copy(update={"benchmarks": benchmarks}))


@main.command(name="plan")
def show_plan() -> None:
    """Print the steps that make everything, in order, and what each one makes."""
    for number, step in enumerate(plan(_profile()), start=1):
        partitions = "every shard" if step.shards else ", ".join(step.partitions)
        CONSOLE.print(f"{number:2}  [bold]{step.stage.job}[/] {partitions}  [dim]{', '.join(step.stage.assets)}[/]")


@main.command()
def curate() -> None:
    """Make everything up to Future-L1-50K and the sets around it."""
    profile = _profile()
    steps = plan(profile)
    last = next(number for number, step in enumerate(steps) if step.stage == RECURATE)
    _run(profile, steps[: last + 1])


@main.command()
@click.argument("recipes", nargs=-1, required=True)
def train(recipes: tuple[str, ...]) -> None:
    """Train the named SFT and RL recipes, in the order given, from the sets that are current."""
    profile = _profile()
    known = dict.fromkeys(profile.checkpoints.sft, TRAIN_SFT) | dict.fromkeys(profile.checkpoints.rl, TRAIN_RL)
    unknown = [name for name in recipes if name not in known]
    if unknown:
        raise click.BadParameter(f"{', '.join(unknown)}: this profile has {', '.join(known)}", param_hint="RECIPES")
    _run(profile, [Step(known[name], (name,)) for name in recipes])


@main.command()
def inspect() -> None:
    """List every current artifact with its version and folder."""
    for name, artifact in AssetStore(_profile().home).everything().items():
        CONSOLE.print(f"{name}  [dim]{artifact.version}  {artifact.path}[/]", soft_wrap=True, highlight=False)


@main.command()
@click.argument("benchmark", type=click.Choice(["futurebench", "twiffbench"]))
@click.argument("answers", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--parser", type=click.Choice(["strict", "release", "release_direct", "option_text"]), default="strict")
def score(benchmark: str, answers: Path, parser: str) -> None:
    """Score answers that were made anywhere: a JSONL file, one answer a line. Prints JSON."""
    from evaluation.score import score_file

    click.echo(json.dumps(score_file(benchmark, answers, parser), indent=1))  # type: ignore[arg-type]


@main.command(name="ui")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, default=3000, show_default=True)
def serve_ui(host: str, port: int) -> None:
    """Serve Dagster (webserver and daemon) until Ctrl-C."""
    try:
        dagster_ui.serve(_profile().home, host, port)
    except dagster_ui.UnhealthyError as error:
        raise click.ClickException(str(error)) from error


@main.command()
def picture() -> None:
    """Print the lineage as a Mermaid flowchart; the README's is this one."""
    click.echo(mermaid(build_definitions(_profile())))


@main.command()
@click.option("--profile", "names", multiple=True, default=["demo", "paper"], show_default=True)
def check(names: tuple[str, ...]) -> None:
    """Check that the definitions of profiles are loadable."""
    home = _profile().home
    for name in names:
        dg.Definitions.validate_loadable(build_definitions(load_profile(name, home)))
        CONSOLE.print(f"[green]✓[/] the definitions of {name} load")


def _profile(seed: int | None = None) -> Profile:
    try:
        profile = profile_from_environment()
    except ValueError as error:
        raise click.ClickException(f"{PROFILE_VARIABLE}: {error}") from error
    return profile if seed is None else profile.model_copy(update={"seed": seed})


def _everything(profile: Profile) -> None:
    _run(profile, plan(profile))
    finish(profile, CONSOLE)


def _run(profile: Profile, steps: list[Step]) -> None:
    try:
        failed_checks = run_plan(profile, steps, CONSOLE)
    except (AlreadyRunningError, StepFailedError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt as error:
        raise click.ClickException("stopped; the same command goes on from here") from error
    for failed in failed_checks:
        CONSOLE.print(f"[yellow]![/] the check {failed} failed")


if __name__ == "__main__":
    main()
