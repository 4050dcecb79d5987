"""`future-l1`: the small command line, for what is one command's work. Everything else is in the UI."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import dagster as dg
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from assets.curation.estimate import Assumptions, estimate
from assets.framework.store import AssetStore
from evaluation.generation.controls import CONTROLS
from evaluation.generation.requests import INTERVENTIONS
from pipelines import cli_evaluate, cli_lineage, cli_model
from pipelines import ui as dagster_ui
from pipelines.commands import Commands
from pipelines.curate import broken_shards, measured_here, own_shards, rows_are_usable
from pipelines.curate import curate as curate_shards
from pipelines.definitions import build_definitions
from pipelines.driver import StepFailedError, run_plan
from pipelines.instance import UnusableHomeError
from pipelines.jobs import SELECT, TRAIN_RL, TRAIN_SFT, Step, plan
from pipelines.profile import PROFILE_VARIABLE, Profile, load_profile, overlaid, profile_from_environment
from pipelines.summary import finish
from training.chat.endpoint import EndpointDownError, EndpointRefusesError
from training.runtime.interrupts import exiting
from training.runtime.printable import printable
from training.storage.artifacts import DamagedArtifactError

CONSOLE = Console()
RESUMED = {"demo", "curate", "train", "evaluate"}
"""The commands that keep what they have done until then."""


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.pass_context
def main(context: click.Context) -> None:
    """From TwiFF trajectories to a latent-reasoning video model and its benchmark reports.

    FUTURE_L1_HOME says where everything is kept (.future-l1), FUTURE_L1_PROFILE which profile counts: demo, ablation,
    paper, or the path of a TOML overlay.
    """
    goes_on = context.invoked_subcommand in RESUMED
    context.with_resource(exiting(f"the same command {'goes on from here' if goes_on else 'starts over'}"))


@main.command()
@click.option("--seed", type=int, help="Draw other worlds and other training randomness (SEED, else 0).")
@click.option("--full-report", is_flag=True, help="Every intervention and control, for every model on every item.")
def demo(seed: int | None, full_report: bool) -> None:
    """Make everything, from the source to the comparison, and print the numbers."""
    profile = _profile(seed)
    if full_report:
        necessity = {"models": profile.checkpoints.models, "n": None, "interventions": INTERVENTIONS[1:],
                     "controls": CONTROLS[1:]}  # fmt: skip
        profile = overlaid(profile, {"benchmarks": {"necessity": necessity}})
    _run(profile, plan(profile))
    finish(profile, CONSOLE)
    _fail_if(broken_shards(profile))


@main.command()
def steps() -> None:
    """Print the steps that make everything, in order, and what each one makes."""
    for number, step in enumerate(plan(_profile()), start=1):
        partitions = "every shard" if step.shards else ", ".join(step.partitions)
        CONSOLE.print(f"{number:2}  [bold]{step.stage.job}[/] {partitions}  [dim]{', '.join(step.stage.assets)}[/]")


@main.command(name="estimate")
@click.option("--rows", type=float, required=True, help="Rows to score; 2.7e6 is TwiFF-2.7M.")
@click.option("--measured", is_flag=True, help="Take answers a row and rates from the profile's scored shards.")
@click.option("--answers-per-second", type=float, help="Per GPU; in place of token rates.")
@click.option("--gpus", type=float)
@click.option("--plain-tokens", type=float, help="Tokens of a prompt without the hint.")
@click.option("--hint-tokens", type=float, help="Tokens of a prompt with the hint.")
@click.option("--answer-tokens", type=float)
@click.option("--judge-share", type=float, help="Share of answers that the rule leaves to the judge.")
@click.option("--judge-distinct", type=float, help="Share of those that the judge has not seen yet.")
@click.option("--price", type=float, nargs=2, metavar="IN OUT", help="The judge's price of a million tokens.")
def estimate_cost(rows: float, measured: bool, price: tuple[float, float] | None, **given: float | None) -> None:
    """Estimate what curating so many rows costs, and say what that assumes.

    The rule is the profile's, by default that of "paper".
    """
    profile = _profile(default="paper")
    try:
        assumptions = Assumptions()
        if measured:
            assumptions = measured_here(profile, assumptions)
        assumptions = assumptions.given(**given, price_in=price and price[0], price_out=price and price[1])
        found = estimate(int(rows), profile.curation.rule, assumptions)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    CONSOLE.print(_table(f"{int(rows):,} rows", ("", ""), found.lines()))
    CONSOLE.print(_table("What this rests on", ("", "value", "from"), found.assumed()))


@main.command()
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
@click.option("--round", "round_size", type=click.IntRange(min=1), help="Answers of a row asked for at a time.")
@click.option("--audit", type=click.FloatRange(0, 1), help="Share of rows answered in full; 1 turns curtailment off.")
@click.option("--concurrency", type=click.IntRange(min=1), help="Requests in flight, at the endpoint and the judge.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds for one attempt of a request.")
@click.option("--image-factor", type=click.IntRange(4, 256), metavar="PX", help="Pixels a side of a vision token.")
@click.option("--retry-refused", is_flag=True, help="Ask again what the endpoint refused or could not be shown.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Where the tables go.")
def curate(out: Path | None, trajectories: str | None, **options: Any) -> None:
    """Curate your own shards into --out; without options, the profile's up to the sets to train on.

    Keys come from the environment: FUTURE_L1_ENDPOINT_API_KEY, FUTURE_L1_JUDGE_API_KEY (else OPENAI_API_KEY), HF_TOKEN.
    What no option names is as in the profile, by default "paper". Started again, it goes on where it was.
    """
    if out is None and trajectories is None and not any(options.values()):
        profile = _profile()
        steps = plan(profile)
        last = next(number for number, step in enumerate(steps) if step.stage == SELECT)
        _run(profile, steps[: last + 1])
        _fail_if(broken_shards(profile))
        return
    if out is None or trajectories is None or not options["clips"]:
        raise click.UsageError("your own shards need --trajectories, --clips and --out")
    try:
        profile = own_shards(_profile(default="paper"), out, trajectories=trajectories, **options)
        summary, failed, broken = curate_shards(profile, out, CONSOLE)
    except (UnusableHomeError, EndpointRefusesError, EndpointDownError, StepFailedError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    _warn(failed)
    CONSOLE.print_json(data=summary, ensure_ascii=True)
    CONSOLE.print(f"Tables   {out}", soft_wrap=True, highlight=False, markup=False)
    _fail_if(broken)


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
@cli_model.INSPECT_OPTIONS
@click.option("--verify", is_flag=True, help="Read every file of every artifact, and say which are damaged.")
def inspect(verify: bool, **options: Any) -> None:
    """List every current artifact with its version and folder; or show what records would teach.

    With --checkpoint, --records and --out: for each record of a JSON file (a list, one record, or one a line) and for
    all as a batch, the text, token ids, labels, latent positions, key frames and both losses.  Records may be in the
    release's layout, TwiFF's or ours; what the pull would reject is shown, too, with the reason.

    With --rewards and --out: the parts of the reward of recorded groups of rollouts.
    """
    if verify and any(value is not None for value in options.values()):
        raise click.UsageError("--verify reads every artifact, and goes with no other option")
    if options["rewards"] is not None:
        cli_model.inspect_rewards(**options)
        return
    del options["rewards"]
    if any(value is not None for value in options.values()):
        cli_model.inspect_records(CONSOLE, **options)
        return
    store = AssetStore(_profile().home)
    damaged = [str(error) for error in store.damaged().values()]
    for name, artifact in store.everything().items():
        CONSOLE.print(f"{escape(name)}  [dim]{artifact.version}  {escape(str(artifact.path))}[/]", soft_wrap=True,
                      highlight=False)  # fmt: skip
        if verify:
            try:
                artifact.verify()
            except DamagedArtifactError as error:
                damaged.append(str(error))
    if damaged:
        raise click.ClickException("\n".join(damaged))


@main.command()
@click.argument("benchmark", type=click.Choice(["futurebench", "twiffbench"]))
@click.argument("answers", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--parser", type=click.Choice(["strict", "release", "release_direct", "option_text"]), default="strict")
def score(benchmark: str, answers: Path, parser: str) -> None:
    """Score answers that were made anywhere: a JSONL file, one answer a line. Prints JSON."""
    from evaluation.score import score_file

    click.echo(json.dumps(score_file(benchmark, answers, parser), indent=1))  # type: ignore[arg-type]


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})  # ids begin with -
@click.argument("id_", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def lineage(id_: str, as_json: bool) -> None:
    """Follow an id both ways: a row's, an item's, a clip's name, an artifact's name or version.

    Back to shard, revision and clip, and on to the checkpoints that were trained on it and the reports made of them.
    """
    cli_lineage.show(_profile(), id_, as_json, CONSOLE)


main.add_command(cli_model.predict)
main.add_command(cli_evaluate.evaluate)


@main.command(name="ui")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, default=3000, show_default=True)
@click.option("--allowed-host", "allowed_hosts", multiple=True, metavar="NAME", envvar="FUTURE_L1_ALLOWED_HOSTS",
              help="A further name of this server, NAME or NAME:PORT, as of a proxy; may be repeated.")  # fmt: skip
@click.option("--read-only", is_flag=True, help="Refuse whatever would change something; the daemon goes on.")
def serve_ui(host: str, port: int, allowed_hosts: tuple[str, ...], read_only: bool) -> None:
    """Serve Dagster (webserver and daemon) until Ctrl-C.

    What is asked under another name, or by another site's page, is refused. FUTURE_L1_ALLOWED_HOSTS may hold further
    names, with blanks between.
    """
    try:
        dagster_ui.serve(_profile().home, host, port, allowed_hosts, read_only)
    except (UnusableHomeError, dagster_ui.UnhealthyError, ValueError) as error:
        raise click.ClickException(str(error)) from error


@main.command()
@click.option("--profile", "names", multiple=True, default=["demo", "paper"], show_default=True)
def check(names: tuple[str, ...]) -> None:
    """Check that the definitions of profiles are loadable."""
    home = _profile().home
    for name in names:
        dg.Definitions.validate_loadable(build_definitions(load_profile(name, home)))
        CONSOLE.print(f"[green]✓[/] the definitions of {name} load")


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(*heads, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    return table


def _profile(seed: int | None = None, default: str = "demo") -> Profile:
    try:
        profile = profile_from_environment(default)
    except ValueError as error:
        raise click.ClickException(f"{PROFILE_VARIABLE}: {error}") from error
    return profile if seed is None else profile.model_copy(update={"seed": seed})


def _run(profile: Profile, steps: list[Step]) -> None:
    try:
        failed_checks = run_plan(profile, steps, CONSOLE, before=partial(rows_are_usable, profile))
    except (UnusableHomeError, StepFailedError) as error:
        raise click.ClickException(str(error)) from error
    _warn(failed_checks)


def _fail_if(broken: str) -> None:
    if broken:
        raise click.ClickException(broken)


def _warn(failed_checks: list[str]) -> None:
    for failed in failed_checks:
        CONSOLE.print(f"[yellow]![/] {escape(printable(failed, keep=chr(10)))}")


if __name__ == "__main__":
    main()
