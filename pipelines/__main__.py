"""`future-l1`, and `python -m pipelines`: the command line, which an interrupt ends properly from its first second on.

Importing the commands takes seconds, in which Python's own handling of INT is a traceback, and of TERM silence.
"""

from training.runtime.imports import importing
from training.runtime.interrupts import exiting


def main() -> None:
    with exiting("nothing was begun, the same command begins"), importing():
        from pipelines.cli.main import main as commands

    commands()


if __name__ == "__main__":
    main()
