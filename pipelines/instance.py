"""The Dagster instance of a home folder, its locks, and the repair of runs that a killed process left unfinished."""

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
from training.storage.files import atomic_write
from training.storage.hashing import digest

DRIVER_TAG = "future-l1/driver"
DRIVER_LOCK = "driver.lock"
UI_LOCK = "ui.lock"
POSTGRES_VARIABLE = "FUTURE_L1_POSTGRES"
"""The environment variable with the database of runs and events, postgresql+psycopg2://user:password@host/database;
without it they are in SQLite."""
POOLS = {"gpu": 1, "endpoint": 1}
"""Pools and their default limits, which the UI can change; devices have locks of their own."""
UNFINISHED = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
QUEUED = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED]


class UnusableHomeError(ValueError):
    """The home folder, or the database of its runs, cannot be used."""


class AlreadyRunningError(UnusableHomeError):
    """Another process holds the lock of the home folder."""


def dagster_home(home: Path) -> Path:
    """The instance's folder, with its dagster.yaml; sets DAGSTER_HOME to it.

    Raises UnusableHomeError where the environment names a database and the home was made without one, or none and the
    home was made with one.
    """
    folder, postgres = _sqlite_safe(home / "dagster"), bool(os.environ.get(POSTGRES_VARIABLE))
    settings = folder / "dagster.yaml"
    if not settings.exists():
        parts = ("dagster.yaml", "postgres.yaml") if postgres else ("dagster.yaml",)
        text = "".join((PROJECT / "instance" / part).read_text() for part in parts)
        with atomic_write(settings) as fresh:
            fresh.write_text(text)
    kept_in_postgres = POSTGRES_VARIABLE in settings.read_text()
    if postgres and not kept_in_postgres:
        raise UnusableHomeError(
            f"${POSTGRES_VARIABLE} names a database, and {settings} keeps runs in SQLite: choose a new home, or append "
            "instance/postgres.yaml to it and leave its old runs behind"
        )
    if kept_in_postgres and not postgres:
        raise UnusableHomeError(f"{settings} keeps runs in PostgreSQL: set ${POSTGRES_VARIABLE} to its address")
    os.environ["DAGSTER_HOME"] = str(folder)
    return folder


def home_of(instance: dg.DagsterInstance) -> Path:
    """The home folder of an instance: `dagster_home` reversed."""
    return Path(instance.root_directory).resolve().parent


def _sqlite_safe(folder: Path) -> Path:
    """A path that Dagster can write into SQLite's URLs, in which `?` and `%` are syntax: the folder (created), or
    a link to it in the user's cache folder."""
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


def initialize_instance(home: Path) -> None:
    """Create the instance's databases, where they are new, before several processes open them: two that create them at
    once leave them broken (a version table with more than one head)."""
    folder = dagster_home(home)
    with (folder / "initialize.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with _instance() as instance:
            _limit_pools(instance)


@contextmanager
def driver_instance(home: Path) -> Iterator[dg.DagsterInstance]:
    """The instance for runs in this process, under an exclusive lock of the home. Raises AlreadyRunningError."""
    folder = dagster_home(home)
    error = f"another future-l1 is working in {home}; wait for it or stop it"
    with _exclusive_lock(folder / DRIVER_LOCK, error), _instance() as instance:
        _limit_pools(instance)
        _repair_stale_runs(folder, instance, DRIVER_LOCK)
        yield instance


@contextmanager
def exclusive_ui(home: Path) -> Iterator[int]:
    """The exclusive lock of the webserver and the daemon of an initialized home. Raises AlreadyRunningError.

    Yields the lock's descriptor: processes that inherit it hold the lock until they end.
    """
    folder = dagster_home(home)
    error = f"another `future-l1 ui` serves {home}, or is ending: wait or stop it"
    with _exclusive_lock(folder / UI_LOCK, error) as lock:
        with _instance() as instance:
            _repair_stale_runs(folder, instance, UI_LOCK)
        yield lock


@contextmanager
def _exclusive_lock(path: Path, error: str) -> Iterator[int]:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as busy:
            raise AlreadyRunningError(error) from busy
        yield file.fileno()


def _repair_stale_runs(folder: Path, instance: dg.DagsterInstance, held: str) -> None:
    """Report the unfinished runs of a killed driver or UI as failed, and free their pool slots; nobody else does.

    A driver or a UI has been killed where its lock is free, or is the one that this process holds (`held`).
    """
    stale = {lock for lock in (DRIVER_LOCK, UI_LOCK) if lock == held or _is_free(folder / lock)}
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
        lock = DRIVER_LOCK if DRIVER_TAG in run.tags else UI_LOCK
        if lock in stale and not _has_live_server(run):
            instance.report_run_failed(run, "the process that drove this run was killed")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def _is_free(lock: Path) -> bool:
    try:
        with _exclusive_lock(lock, ""):
            return True
    except AlreadyRunningError:
        return False


def _has_live_server(run: dg.DagsterRun) -> bool:
    """Whether the code server that started a run still answers; it reports the run's end."""
    server = json.loads(run.tags.get(GRPC_INFO_TAG, "{}"))
    if "socket" not in server:
        return False
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(server["socket"]) == 0


def _instance() -> dg.DagsterInstance:
    """The instance of DAGSTER_HOME. Raises UnusableHomeError where its database does not answer."""
    if not os.environ.get(POSTGRES_VARIABLE):
        return dg.DagsterInstance.get()
    from dagster_postgres.utils import DagsterPostgresException  # an extra

    try:
        return dg.DagsterInstance.get()
    except DagsterPostgresException as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise UnusableHomeError(f"the database that ${POSTGRES_VARIABLE} names does not answer: {cause}") from error


def _limit_pools(instance: dg.DagsterInstance) -> None:
    storage = instance.event_log_storage
    configured = {pool.name for pool in storage.get_pool_limits() if not pool.from_default}
    for name, limit in POOLS.items():
        if name not in configured:
            storage.set_concurrency_slots(name, limit)
