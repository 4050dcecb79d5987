"""`future-l1 env`: the environment of Dagster's own commands."""

import os
import shlex

import click

from pipelines.cli.common import current_profile
from pipelines.instance import initialize_instance
from pipelines.profile import HOME_VARIABLE, PROFILE_VARIABLE, make_environment_absolute


@click.command()
def env() -> None:
    """Print what a shell must set so that `dagster` and `dg` work on this home, with this profile.

    The home's DAGSTER_HOME, with pools and settings as `future-l1 ui` has them, is made where it is new.

    \b
    Example:
      eval "$(future-l1 env)"
    """
    home = current_profile().home
    make_environment_absolute(home)
    initialize_instance(home)
    for name in (HOME_VARIABLE, PROFILE_VARIABLE, "DAGSTER_HOME"):
        if value := os.environ.get(name):
            click.echo(f"export {name}={shlex.quote(value)}")
