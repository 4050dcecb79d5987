"""The two kinds of failure that a program reports by its exit status (training/runtime/programs.py), and what is wrong
with settings, for people."""

from pydantic import ValidationError


class PermanentError(ValueError):
    """Nothing that a retry would mend: the message says what to change."""


class OutageError(RuntimeError):
    """A server cannot be reached, or fails all the time: start again when it is back."""


def validation_message(error: ValidationError) -> str:
    """Which fields are wrong and why, without what pydantic adds for programmers.

    Values of unknown fields and of addresses with a password are left out: they may be secrets.
    """
    sentences = []
    for problem in error.errors(include_url=False):
        field, value, kind = ".".join(map(str, problem["loc"])), problem["input"], problem["type"]
        text = "there is no such field" if kind == "extra_forbidden" else problem["msg"].removeprefix("Value error, ")
        secret = kind == "extra_forbidden" or "@" in str(value)
        suffix = f" (found {value!r})" if isinstance(value, str | int | float) and field and not secret else ""
        sentences.append(f"{field}: {text}{suffix}" if field else text)
    return "; ".join(sentences)
