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

    `toy` serves the demo's deterministic judge on loopback for as long as it is needed. No request is sent twice: its
    reply is in `folder`, in a file for each shard, benchmark or training, which is all that its programs read.
    """

    def __init__(self, settings: JudgeSettings | None, toy: bool, folder: Path) -> None:
        self._settings = settings
        self._toy = toy
        self._folder = folder

    @property
    def name(self) -> str | None:
        """The judge's model, part of the version of every artifact with its verdicts."""
        return self._settings.model if self._settings else None

    def replies(self, key: str, partition: str | None = None) -> Path:
        """The file of the replies about an asset, or about one of its partitions."""
        return self._folder / (f"{key}.jsonl" if partition is None else f"{key}/{partition}.jsonl")

    @contextmanager
    def settings(self, cache: Path | None = None) -> Iterator[JudgeSettings | None]:
        """The judge's address, with its replies in `cache`, while the context lasts; None where the profile has no
        judge."""
        if self._settings is None:
            yield None
            return
        settings = self._settings.model_copy(update={"cache": cache})
        if not self._toy:
            yield settings
            return
        with serve() as url:
            yield settings.model_copy(update={"base_url": url})


JudgeParam = dg.ResourceParam[JudgeAccess]
