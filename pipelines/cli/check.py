"""`future-l1 check`: the preflight of a profile."""

import click
import dagster as dg
from rich.markup import escape

from pipelines.cli.common import CONSOLE, PROFILE
from pipelines.definitions import build_definitions
from pipelines.preflight.checks import run_checks
from pipelines.profile import profile_from_environment


@click.command()
@PROFILE
@click.pass_context
def check(context: click.Context, name: str | None) -> None:
    """Check a profile before anything runs: definitions, files, base model, servers, disk, memory and GPUs.

    Nothing is made. Prints every problem with what to do, within about a minute, and exits with 1 where there is one.

    \b
    Example:
      future-l1 check --profile my.toml
    """
    profile = profile_from_environment(name=name)
    dg.Definitions.validate_loadable(build_definitions(profile))
    failed = False
    for title, problems in run_checks(profile):
        failed = failed or bool(problems)
        for problem in problems:
            CONSOLE.print(f"[red]✗[/] {title}: {escape(problem)}", soft_wrap=True, highlight=False)
        if not problems:
            CONSOLE.print(f"[green]✓[/] {title}")
    context.exit(int(failed))
