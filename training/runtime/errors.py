"""The two kinds of failure that a program reports by its exit status (training/runtime/programs.py)."""


class PermanentError(ValueError):
    """Nothing that a retry would mend: the message says what to change."""


class OutageError(RuntimeError):
    """A server cannot be reached, or fails all the time: start again when it is back."""
