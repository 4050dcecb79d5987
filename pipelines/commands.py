"""What all commands have in common: a mistake, a full disk or a damaged artifact ends them with a sentence, and nothing
of data, models and servers reaches the terminal with what a terminal obeys."""

from typing import Any

import click
from sqlalchemy.exc import OperationalError

from training.runtime.printable import printable
from training.storage.artifacts import DamagedArtifactError
from training.storage.files import UNWRITABLE


class Commands(click.Group):
    """The group of all commands."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
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
