"""Resources of the assets: the judge, and progress as log lines; tests and the demo's driver replace them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from training.grading.judge import JudgeSettings
from training.grading.toy_judge import serve

MIN_LOG_INTERVAL = 10.0


class LogProgress:
    """Progress as log lines of the run, at most one in MIN_LOG_INTERVAL seconds: each is a row of the database."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, done: int, total: int, what: str) -> None:
        if time.monotonic() - self._last >= MIN_LOG_INTERVAL:
            self._last = time.monotonic()
            dg.get_dagster_logger().info(f"{what}: {done} of {total}")


class JudgeAccess:
    """The judge of a profile; its API key comes from the environment of the process that uses it.

    `toy` serves the demo's deterministic judge on loopback for as long as it is needed. Replies are cached in `cache`
    (append-only, by content), so no request is sent twice.
    """

    def __init__(self, settings: JudgeSettings | None, toy: bool, cache: Path) -> None:
        self._settings = settings
        self._toy = toy
        self._cache = cache

    @property
    def name(self) -> str | None:
        """The judge's model, part of the version of every artifact with its verdicts."""
        return self._settings.model if self._settings else None

    @contextmanager
    def settings(self) -> Iterator[JudgeSettings | None]:
        """The judge's address while the context lasts; None where the profile has no judge."""
        if self._settings is None:
            yield None
            return
        settings = self._settings.model_copy(update={"cache": self._cache})
        if not self._toy:
            yield settings
            return
        with serve() as url:
            yield settings.model_copy(update={"base_url": url})


JudgeParam = dg.ResourceParam[JudgeAccess]
