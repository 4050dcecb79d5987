"""The group of all commands: a mistake, a full disk or a damaged artifact ends them with a sentence, and nothing
of data, models and servers reaches the terminal with what a terminal obeys."""

from typing import Any

import click
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError

from evaluation.generation.program import GenerationFailedError
from pipelines.cli.check import check
from pipelines.cli.common import CONSOLE
from pipelines.cli.curate import curate
from pipelines.cli.demo import demo, steps, train
from pipelines.cli.env import env
from pipelines.cli.estimate import estimate_cost
from pipelines.cli.evaluate import evaluate
from pipelines.cli.explore import explore
from pipelines.cli.inspect import inspect
from pipelines.cli.lineage import lineage
from pipelines.cli.predict import predict
from pipelines.cli.push import push
from pipelines.cli.score import score
from pipelines.cli.serve import serve
from pipelines.cli.servers import UnhealthyError
from pipelines.cli.ui import serve_ui
from pipelines.driver import StepFailedError
from pipelines.heartbeat import heartbeat
from training.runtime.errors import OutageError, validation_message
from training.runtime.interrupts import exiting
from training.runtime.printable import printable
from training.storage.files import UNWRITABLE

ERRORS = (ValueError, OutageError, StepFailedError, GenerationFailedError, UnhealthyError)
"""The errors, besides those of files and of the database, that end a command with one sentence; a ValueError of a
library is among them.  All others are defects, and have a traceback."""
RESUMED = {"demo", "curate", "train", "evaluate", "push"}
"""The commands that keep what they have done until then."""
SERVERS = {"explore", "serve", "ui"}
"""The commands that wait for requests, and so are never done."""


class Commands(click.Group):
    """The group of all commands."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            error.message = printable(error.message, keep="\n")  # type: ignore[misc]
            raise
        except BrokenPipeError:  # whoever read our output has ended: click ends, too, and says nothing
            raise
        except (*ERRORS, OSError, OperationalError) as error:
            raise click.ClickException(printable(_sentence(error), keep="\n")) from error


def _sentence(error: Exception) -> str:
    """The message of an error for people: the fault, and what to do."""
    match error:
        case ValidationError():
            return validation_message(error)
        case OSError() if error.errno in UNWRITABLE:
            where = f"{error.filename}: " if error.filename else ""
            return (f"{where}{error.strerror}; make room there or allow writing, or choose another folder "
                    "(FUTURE_L1_HOME, --out); the same command then goes on from here")  # fmt: skip
        case OperationalError():
            return (f"the database of runs in FUTURE_L1_HOME cannot be used: {error.orig}; is its disk full, may it be "
                    "written? the same command then goes on from here")  # fmt: skip
    return str(error)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.pass_context
def main(context: click.Context) -> None:
    """From TwiFF trajectories to a latent-reasoning video model and its benchmark reports.

    FUTURE_L1_HOME says where everything is kept (.future-l1), FUTURE_L1_PROFILE which profile counts: demo, ablation,
    paper, or the path of a TOML overlay.
    """
    goes_on = context.invoked_subcommand in RESUMED
    context.with_resource(exiting(f"the same command {'goes on from here' if goes_on else 'starts over'}"))
    if not CONSOLE.is_terminal and context.invoked_subcommand not in SERVERS:
        context.with_resource(heartbeat(f"future-l1 {context.invoked_subcommand}"))


for command in (
    demo, steps, check, estimate_cost, curate, train, inspect, score, lineage, predict, explore, evaluate, serve, push,
    serve_ui, env,
):  # fmt: skip
    main.add_command(command)
