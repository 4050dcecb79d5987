"""`future-l1 estimate`: what a profile costs before anything runs."""

import json
from collections.abc import Iterable, Sequence

import click
import polars as pl
from rich.markup import escape
from rich.table import Table

from assets.curation.assets import ANSWER_TABLE, ANSWERS
from assets.curation.estimate import STATED, Assumptions, Quantity, bounds, brief, estimate
from assets.curation.scored import gain_tables, scored_shards, verdict_tables
from assets.framework.store import AssetStore
from pipelines.cli.common import CONSOLE, PROFILE
from pipelines.estimate.costs import ProfileEstimate, TrainingEstimate, estimate_profile
from pipelines.estimate.inputs import curation_assumptions, source_rows, training_runs
from pipelines.profile import Profile, profile_from_environment
from training.estimate.devices import DEVICES, Range, device_of
from training.estimate.run import usable_gib
from training.estimate.shape import model_shape
from training.storage.parquet import scan_parquet


class FrameSize(click.ParamType[tuple[int, int]]):
    """WIDTHxHEIGHT to (height, width)."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        width, _, height = str(value).partition("x")
        if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
            self.fail(f"{value!r} is no size, as 1280x720", param, ctx)
        return int(height), int(width)


@click.command(name="estimate")
@PROFILE
@click.option(
    "--device", metavar="DEVICE", help=f"{', '.join(DEVICES)}, or GiB [the first; cpu where the profile says so]."
)
@click.option("--gpus", type=click.IntRange(min=1), help="Of every program [the profile's].")
@click.option(
    "--frame", type=FrameSize(), metavar="WxH", help="Size of the clips' frames [1280x720, or the toy world's]."
)
@click.option("--rows", type=float, help="Rows to score [2,708,318, or the toy world's].")
@click.option("--measured", is_flag=True, help="Take answers a row and rates from the profile's scored shards.")
@click.option("--answers-per-second", type=float, help="Per GPU; in place of token rates.")
@click.option("--decode-per-second", type=float, help="Completion tokens per GPU.")
@click.option("--plain-tokens", type=float, help="Tokens of a prompt without the hint.")
@click.option("--hint-tokens", type=float, help="Tokens of a prompt with the hint.")
@click.option("--answer-tokens", type=float)
@click.option("--judge-share", type=float, help="Share of answers that the rule leaves to the judge.")
@click.option("--judge-distinct", type=float, help="Share of those that the judge has not seen yet.")
@click.option("--price", type=float, nargs=2, metavar="IN OUT", help="The judge's price of a million tokens.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object in place of tables.")
def estimate_cost(
    name: str | None,
    device: str | None,
    gpus: int | None,
    frame: tuple[int, int] | None,
    rows: float | None,
    measured: bool,
    price: tuple[float, float] | None,
    as_json: bool,
    **values: float | None,
) -> None:
    """Estimate what a profile costs: curation, and steps, hours and memory of each training.

    Nothing runs. Says what does not fit the device, what to change, and what it assumes.

    \b
    Example:
      future-l1 estimate --profile paper --device h100-80gb --gpus 8
    """
    profile = profile_from_environment(name=name)
    card = device_of(device or ("cpu" if profile.device == "cpu" else next(iter(DEVICES))))
    model, shape_source = model_shape(profile.base)
    assumptions = curation_assumptions(profile, model, card, frame)
    if measured:
        assumptions = _measured(profile, assumptions)
    assumptions = assumptions.stated(**values, gpus=gpus, price_in=price and price[0], price_out=price and price[1])
    number = source_rows(profile) if rows is None else Quantity(value=rows, source=STATED)
    curation = estimate(number, profile.curation.rule, assumptions)
    runs = training_runs(profile, model, frame, gpus)
    result = estimate_profile(profile, curation, runs, card, shape_source)
    if as_json:
        click.echo(json.dumps(result.as_json(), ensure_ascii=False, indent=1))
        return
    for table in _tables(result):
        CONSOLE.print(table)
    for warning in result.warnings:
        CONSOLE.print(f"[yellow]![/] {escape(warning)}", soft_wrap=True)


def _measured(profile: Profile, assumptions: Assumptions) -> Assumptions:
    """The assumptions with what the profile's scored shards measure.

    Raises ValueError where no shard is answered and scored.
    """
    store = AssetStore(profile.home)
    scored = {shard: gain for shard, gain in scored_shards(store).items() if store.has(ANSWERS, shard)}
    if not scored:
        raise ValueError(f"no shard is answered and scored in {profile.home}: there is nothing to measure")
    at_once = float(profile.curation.endpoint.concurrency) if profile.curation.endpoint else 1.0
    answers = [store.current(ANSWERS, shard).file(ANSWER_TABLE) for shard in scored]
    rows = scan_parquet(*gain_tables(scored)).select(pl.len()).collect().item()
    return assumptions.measured(rows, answers, verdict_tables(scored), at_once)


def _tables(result: ProfileEstimate) -> Iterable[Table]:
    yield _table(f"Curation: {result.curation.rows.value:,.0f} rows", ("", ""), result.curation.lines())
    usable = "" if result.device.is_cpu else f", {usable_gib(result.device):.1f} GiB of each can be used"
    heads = ("model", "rows", "steps", "hours", "devices", "peak GiB", "fits")
    lines = [_row(one) for one in result.trainings]
    low, high = (sum(one.hours[end] for one in result.trainings) for end in (0, 1))
    lines.append(["all, one after another", "", "", _hours((low, high)), "", "", ""])
    yield _table(f"Training on {result.device.name}{usable}", heads, lines)
    for names, memory in _distinct(result.trainings):
        parts = dict.fromkeys(part for phase in memory.values() for part in phase)
        lines = [[part, *(_gib(phase.get(part)) for phase in memory.values())] for part in parts]
        lines.append(["all", *(_gib(sum(phase.values())) for phase in memory.values())])
        yield _table(f"Memory of one device, GiB: {', '.join(names)}", ("", *memory), lines)
    machine = [(f"disk: {title}", brief(size, "B")) for title, size in result.disk.items()]
    machine.append(("host memory of a training, on its first node", f"{bounds(*result.host_gib)} GiB"))
    machine.append(("judge calls, of curation and RL", bounds(*result.judge_calls)))
    yield _table("Machine and judge", ("", ""), machine)
    yield _table("Assumptions", ("", "value", "from"), result.assumptions)


def _row(training: TrainingEstimate) -> list[str]:
    fits = {True: "yes", False: "no", None: "-"}[training.fits]
    devices = f"{training.gpus} ({training.layout}{f', {training.nodes} nodes' if training.nodes > 1 else ''})"
    numbers = [f"{training.rows:,}", f"{training.steps:,}", _hours(training.hours)]
    return [training.name, *numbers, devices, _gib(training.peak_gib), fits]


def _hours(hours: Range) -> str:
    return " – ".join(dict.fromkeys(f"{end:.2g}" for end in hours))


def _gib(size: float | None) -> str:
    return "-" if size is None else f"{size:.1f}"


def _distinct(trainings: Sequence[TrainingEstimate]) -> list[tuple[list[str], dict[str, dict[str, float]]]]:
    """Each memory that there is, with the names of its trainings."""
    result: list[tuple[list[str], dict[str, dict[str, float]]]] = []
    for training in trainings:
        names = next((names for names, memory in result if memory == training.memory), None)
        if names is not None:
            names.append(training.name)
        elif training.memory:
            result.append(([training.name], training.memory))
    return result


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", show_header=any(heads))
    for place, head in enumerate(heads):
        table.add_column(head, no_wrap=place == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table
