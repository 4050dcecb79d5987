"""`python -m pipelines.daemon`: Dagster's daemon, whose backfills request what is next every 5 seconds.

Dagster has 30 seconds, and no setting (dagster-io/dagster#11649): the lineage is so deep that a backfill of all assets
of the demo would wait longer than it works.  The pin on dagster's minor version answers for the constant.
"""

from dagster._daemon import controller
from dagster._daemon.cli import main

BACKFILL_INTERVAL = 5


def shorten_backfill_interval() -> None:
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = BACKFILL_INTERVAL


if __name__ == "__main__":
    shorten_backfill_interval()
    main()
