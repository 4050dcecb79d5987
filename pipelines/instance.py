"""The Dagster instance of a home folder, and putting right what a killed run left in it."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import dagster as dg
from dagster._core.storage.tags import GRPC_INFO_TAG

from training.runtime.project import PROJECT
from training.storage.files import whole
from training.storage.hashing import digest

DRIVER_TAG = "future-l1/driver"
DRIVER_LOCK = "driver.lock"
UI_LOCK = "ui.lock"
POSTGRES_VARIABLE = "FUTURE_L1_POSTGRES"
"""postgresql+psycopg2://user:password@host/database, where runs and events are not to be in SQLite."""
POOLS = {"gpu": 1, "endpoint": 1}
"""Steps at once, until somebody sets another limit in the UI; a count: devices have locks of their own."""
UNFINISHED = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


class UnusableHomeError(ValueError):
    """The home folder, or the database of its runs, cannot be used; the message says why."""


class AlreadyRunningError(UnusableHomeError):
    """Another process is working on the same home folder."""


def dagster_home(home: Path) -> Path:
    """The instance's folder, with its dagster.yaml; processes find it by DAGSTER_HOME.

    Raises UnusableHomeError where the environment names a database and the home was made without one.
    """
    folder, postgres = _without_marks(home / "dagster"), bool(os.environ.get(POSTGRES_VARIABLE))
    settings = folder / "dagster.yaml"
    if not settings.exists():
        parts = ("dagster.yaml", "postgres.yaml") if postgres else ("dagster.yaml",)
        text = "".join((PROJECT / "instance" / part).read_text() for part in parts)
        with whole(settings) as fresh:
            fresh.write_text(text)
    elif postgres and POSTGRES_VARIABLE not in settings.read_text():
        raise UnusableHomeError(
            f"${POSTGRES_VARIABLE} names a database, and {settings} keeps runs in SQLite: choose a new home, or append "
            "instance/postgres.yaml to it and leave its old runs behind"
        )
    os.environ["DAGSTER_HOME"] = str(folder)
    return folder


def _without_marks(folder: Path) -> Path:
    """The folder, made if need be, by a path that Dagster can write into SQLite's URLs, which take `?` and `%` for
    marks of their own: a link to it in the user's cache folder."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if not set("?%") & set(str(folder)):
        return folder
    links = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "future-l1" / "homes"
    link = links / digest(str(folder))
    links.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        link.symlink_to(folder)
    return link


def ready_instance(home: Path) -> None:
    """Makes the instance's databases, if they are new, before several processes open them: two that make the same ones
    at once leave them broken (a version table with more than one head)."""
    folder = dagster_home(home)
    with (folder / "ready.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with _instance(folder) as instance:
            _limit_pools(instance)


@contextmanager
def driver_instance(home: Path) -> Iterator[dg.DagsterInstance]:
    """The instance for runs in this process, one such process at a time. Raises AlreadyRunningError."""
    folder = dagster_home(home)
    other = f"another future-l1 is working in {home}; wait for it or stop it"
    with _only_one(folder / DRIVER_LOCK, other), _instance(folder) as instance:
        _limit_pools(instance)
        _put_right(folder, instance, DRIVER_LOCK)
        yield instance


@contextmanager
def sole_ui(home: Path) -> Iterator[int]:
    """Webserver and daemon of a ready home, one of each at a time. Raises AlreadyRunningError.

    Yields the lock's descriptor: whoever inherits it must have ended before the next UI may begin.
    """
    folder = dagster_home(home)
    with _only_one(folder / UI_LOCK, f"another `future-l1 ui` serves {home}, or is ending: wait or stop it") as lock:
        with _instance(folder) as instance:
            _put_right(folder, instance, UI_LOCK)
        yield lock


@contextmanager
def _only_one(lock: Path, otherwise: str) -> Iterator[int]:
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRunningError(otherwise) from error
        yield file.fileno()


def _put_right(folder: Path, instance: dg.DagsterInstance, held: str) -> None:
    """A driver or a UI that was killed left its runs "started" and their pool slots taken, and nobody else will tell:
    as its lock is free, or ours, it is gone, so its runs have failed and their slots are given back."""
    gone = {lock for lock in (DRIVER_LOCK, UI_LOCK) if lock == held or _is_free(folder / lock)}
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
        lock = DRIVER_LOCK if DRIVER_TAG in run.tags else UI_LOCK
        if lock in gone and not _is_looked_after(run):
            instance.report_run_failed(run, "the process that drove this run was killed")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def _is_free(lock: Path) -> bool:
    try:
        with _only_one(lock, ""):
            return True
    except AlreadyRunningError:
        return False


def _is_looked_after(run: dg.DagsterRun) -> bool:
    """Whether the code server that started a run still answers; it tells of the run's end, whatever that is."""
    server = json.loads(run.tags.get(GRPC_INFO_TAG, "{}"))
    if "socket" not in server:
        return False
    with socket.socket(socket.AF_UNIX) as asking:
        return asking.connect_ex(server["socket"]) == 0


def _instance(folder: Path) -> dg.DagsterInstance:
    """The instance of DAGSTER_HOME. Raises UnusableHomeError where its database does not answer."""
    if POSTGRES_VARIABLE not in (folder / "dagster.yaml").read_text():
        return dg.DagsterInstance.get()
    from dagster_postgres.utils import DagsterPostgresException  # an extra

    if not os.environ.get(POSTGRES_VARIABLE):
        settings = folder / "dagster.yaml"
        raise UnusableHomeError(f"{settings} keeps runs in PostgreSQL: set ${POSTGRES_VARIABLE} to its address")
    try:
        return dg.DagsterInstance.get()
    except DagsterPostgresException as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise UnusableHomeError(f"the database that ${POSTGRES_VARIABLE} names does not answer: {cause}") from error


def _limit_pools(instance: dg.DagsterInstance) -> None:
    storage = instance.event_log_storage
    known = {limit.name for limit in storage.get_pool_limits() if not limit.from_default}
    for name, steps in POOLS.items():
        if name not in known:
            storage.set_concurrency_slots(name, steps)
