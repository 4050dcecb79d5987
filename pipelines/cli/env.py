"""`future-l1 env`: the environment of Dagster's own commands."""

import os
import shlex

import click

from pipelines.cli.common import current_profile
from pipelines.instance import initialize_instance
from pipelines.profile import HOME_VARIABLE, PROFILE_VARIABLE, make_environment_absolute
from pipelines.shards import register_shards


@click.command()
def env() -> None:
    """Print what a shell must set so that `dagster` and `dg` work on this home, with this profile.

    The home's DAGSTER_HOME, with pools, settings and shards as `future-l1 ui` has them, is made where it is new.

    \b
    Example:
      eval "$(future-l1 env)"
    """
    profile = current_profile()
    home = profile.home
    make_environment_absolute(home)
    initialize_instance(home)
    if reason := register_shards(profile):
        click.echo(reason, err=True)
    for name in (HOME_VARIABLE, PROFILE_VARIABLE, "DAGSTER_HOME"):
        if value := os.environ.get(name):
            click.echo(f"export {name}={shlex.quote(value)}")
