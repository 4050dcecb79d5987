"""The daemon's backfills take our interval, by a constant of Dagster's that it does not promise."""

import logging
from itertools import islice
from typing import Any

import pytest
from dagster._daemon import backfill, controller

from pipelines.daemon import BACKFILL_INTERVAL, shorten_backfill_interval
from tests.pipelines.test_heartbeat import Clock


def test_backfills_look_for_what_is_next_at_our_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "DEFAULT_DAEMON_INTERVAL_SECONDS", controller.DEFAULT_DAEMON_INTERVAL_SECONDS)
    monkeypatch.setattr(backfill, "execute_backfill_iteration", lambda *args, **options: iter(()))
    shorten_backfill_interval()
    context: Any = None
    clock = Clock(1)
    list(islice(backfill.execute_backfill_iteration_loop(context, logging.getLogger(), clock), 3))
    assert len(clock.waited) == 1 and clock.waited[0] <= BACKFILL_INTERVAL
