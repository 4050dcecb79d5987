"""What assets are given to work with: the store, the launcher, the judge, and someone to tell about progress.

Tests and the demo's driver put their own in place; nothing here is a setting of a stage.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from training.grading.judge import JudgeSettings
from training.grading.toy_judge import serve

SECONDS_BETWEEN_LINES = 10.0


class LogProgress:
    """Progress as log lines of the run, seldom enough for the database."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, done: int, total: int, what: str) -> None:
        if time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            dg.get_dagster_logger().info(f"{what}: {done} of {total}")


class JudgeAccess:
    """The judge that a profile names; its key comes from the environment of whoever asks.

    `toy` serves the demo's deterministic judge on loopback for as long as it is needed. Replies are kept in `cache`
    (append-only, by content), so nothing is asked twice.
    """

    def __init__(self, settings: JudgeSettings | None, toy: bool, cache: Path) -> None:
        self._settings = settings
        self._toy = toy
        self._cache = cache

    @property
    def name(self) -> str | None:
        """The judge's model, part of every version that its verdicts enter."""
        return self._settings.model if self._settings else None

    @contextmanager
    def settings(self) -> Iterator[JudgeSettings | None]:
        """The judge's address while the context lasts; None where the profile has no judge."""
        if self._settings is None:
            yield None
            return
        kept = self._settings.model_copy(update={"cache": self._cache})
        if not self._toy:
            yield kept
            return
        with serve() as url:
            yield kept.model_copy(update={"base_url": url})
