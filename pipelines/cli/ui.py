"""`future-l1 ui` and `check`."""

import os

import click
import dagster as dg
from rich.markup import escape

from pipelines import ui as dagster_ui
from pipelines.cli.common import CONSOLE, current_profile
from pipelines.definitions import build_definitions
from pipelines.instance import UnusableHomeError
from pipelines.profile import PROFILE_VARIABLE, load_profile


@click.command(name="ui")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=3000, show_default=True)
@click.option("--allowed-host", "allowed_hosts", multiple=True, metavar="NAME", envvar="FUTURE_L1_ALLOWED_HOSTS",
              help="A further name of this server, NAME or NAME:PORT, as of a proxy; may be repeated.")  # fmt: skip
@click.option("--read-only", is_flag=True, help="Refuse whatever would change something; the daemon goes on.")
def serve_ui(host: str, port: int, allowed_hosts: tuple[str, ...], read_only: bool) -> None:
    """Serve Dagster (webserver and daemon) until Ctrl-C.

    Requests under another host name, or from another site's page, are refused. FUTURE_L1_ALLOWED_HOSTS may hold further
    names, with blanks between.

    \b
    Example:
      future-l1 ui --port 3000
    """
    try:
        dagster_ui.serve(current_profile().home, host, port, allowed_hosts, read_only)
    except (UnusableHomeError, dagster_ui.UnhealthyError, ValueError) as error:
        raise click.ClickException(str(error)) from error


@click.command()
@click.option("--profile", "names", multiple=True, metavar="NAME",
              help="A preset, or the path of a TOML overlay; may be repeated [FUTURE_L1_PROFILE, else demo and paper].")
def check(names: tuple[str, ...]) -> None:
    """Check that profiles and their definitions can be loaded.

    \b
    Example:
      future-l1 check --profile demo
    """
    home = current_profile().home
    from_environment = os.environ.get(PROFILE_VARIABLE)
    for name in names or ([from_environment] if from_environment else ["demo", "paper"]):
        try:
            profile = load_profile(name, home)
        except ValueError as error:
            raise click.ClickException(str(error)) from error
        dg.Definitions.validate_loadable(build_definitions(profile))
        CONSOLE.print(f"[green]✓[/] the definitions of {escape(name)} load", soft_wrap=True)
