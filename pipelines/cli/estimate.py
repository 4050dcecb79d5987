"""`future-l1 estimate`: what a curation costs."""

from collections.abc import Sequence

import click
import polars as pl
from rich.table import Table

from assets.curation.assets import ANSWER_TABLE, ANSWERS
from assets.curation.estimate import Assumptions, estimate
from assets.curation.scored import gain_tables, scored_shards, verdict_tables
from assets.framework.store import AssetStore
from pipelines.cli.common import CONSOLE, current_profile
from pipelines.profile import Profile
from training.storage.parquet import scan_parquet


@click.command(name="estimate")
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
def estimate_cost(rows: float, measured: bool, price: tuple[float, float] | None, **values: float | None) -> None:
    """Estimate what curating so many rows costs, and list what the estimate assumes.

    The rule is the profile's, by default that of "paper".

    \b
    Example:
      future-l1 estimate --rows 2.7e6 --gpus 8
    """
    profile = current_profile(default="paper")
    assumptions = _measured(profile, Assumptions()) if measured else Assumptions()
    assumptions = assumptions.stated(**values, price_in=price and price[0], price_out=price and price[1])
    result = estimate(rows, profile.curation.rule, assumptions)
    CONSOLE.print(_table(f"{int(rows):,} rows", ("", ""), result.lines()))
    CONSOLE.print(_table("Assumptions", ("", "value", "from"), result.assumed()))


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


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(*heads, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    return table
