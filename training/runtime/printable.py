"""Text of data, models and servers, made fit for a terminal, a log line or a page."""

import re
from pathlib import Path

_MARKDOWN = re.compile(r"([\\`*|<>\[\]])")


def printable(text: object, keep: str = "") -> str:
    """`text` with a blank for every character that is not printable, except those in `keep`.

    Not printable are what a terminal obeys (escape sequences begin with ESC or U+009B), other control characters and
    line breaks, what turns or hides text (U+202E, zero-width characters), and half characters, which no stream takes.
    """
    return "".join(c if c.isprintable() or c in keep else " " for c in str(text))


def escaped(text: object) -> str:
    """`text` on one line without live Markdown or HTML."""
    return _MARKDOWN.sub(r"\\\1", " ".join(printable(text).split()))


def model_label(name: str) -> str:
    """A model's name as it is published: some servers call a model by its folder, and a path is of one machine."""
    return Path(name).name if Path(name).is_absolute() else name
