"""The group of all commands: a mistake, a full disk or a damaged artifact ends them with a sentence, and nothing
of data, models and servers reaches the terminal with what a terminal obeys."""

from typing import Any

import click
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError

from pipelines.cli.curate import curate
from pipelines.cli.demo import demo, steps, train
from pipelines.cli.estimate import estimate_cost
from pipelines.cli.evaluate import evaluate
from pipelines.cli.inspect import inspect
from pipelines.cli.lineage import lineage
from pipelines.cli.predict import predict
from pipelines.cli.score import score
from pipelines.cli.ui import check, serve_ui
from training.runtime.errors import validation_message
from training.runtime.interrupts import exiting
from training.runtime.printable import printable
from training.storage.artifacts import DamagedArtifactError
from training.storage.files import UNWRITABLE

RESUMED = {"demo", "curate", "train", "evaluate"}
"""The commands that keep what they have done until then."""


class Commands(click.Group):
    """The group of all commands."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            if isinstance(error.__cause__, ValidationError):
                raise click.ClickException(printable(validation_message(error.__cause__))) from error
            error.message = printable(error.message, keep="\n")  # type: ignore[misc]
            raise
        except DamagedArtifactError as error:
            raise click.ClickException(printable(error)) from error
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            where = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(printable(
                f"{where}{error.strerror}; make room there or allow writing, or choose another folder "
                "(FUTURE_L1_HOME, --out); the same command then goes on from here"
            )) from error  # fmt: skip
        except OperationalError as error:
            raise click.ClickException(printable(
                f"the database of runs in FUTURE_L1_HOME cannot be used: {error.orig}; is its disk full, may it be "
                "written? the same command then goes on from here"
            )) from error  # fmt: skip


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.pass_context
def main(context: click.Context) -> None:
    """From TwiFF trajectories to a latent-reasoning video model and its benchmark reports.

    FUTURE_L1_HOME says where everything is kept (.future-l1), FUTURE_L1_PROFILE which profile counts: demo, ablation,
    paper, or the path of a TOML overlay.
    """
    goes_on = context.invoked_subcommand in RESUMED
    context.with_resource(exiting(f"the same command {'goes on from here' if goes_on else 'starts over'}"))


for command in (demo, steps, estimate_cost, curate, train, inspect, score, lineage, predict, evaluate, serve_ui, check):
    main.add_command(command)
