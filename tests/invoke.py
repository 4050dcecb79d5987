"""Commands of the project in this process."""

from click.testing import CliRunner, Result

from pipelines.cli.main import main


def invoke(*arguments: object) -> Result:
    """Runs `future-l1` to its end."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])
