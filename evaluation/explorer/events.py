"""What happens while an answer is made, as JSON for the page, and whoever listens to it."""

from collections.abc import Callable
from typing import Any

Event = dict[str, Any]
"""`event` is its name; the page's `take` knows them all."""
Emit = Callable[[Event], None]
"""Takes an event.  Raises StoppedError where nobody listens any more, which ends the decoding."""


class StoppedError(Exception):
    """Nobody listens to an answer any more."""
