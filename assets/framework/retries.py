"""Which errors are retried: the one rule.

Retried is only what may pass by itself: a source, a hub, a served model or a judge that cannot be reached, breaks off
or is busy.  A wrong configuration, wrong input, a missing file and a defect are the same the second time, and a local
program that fails is not restarted.  A retry reuses what was done before the failure.  A step that INT or TERM ends is
not retried either: Dagster's own handling would take that for an outage.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import isgeneratorfunction
from typing import Any

import dagster as dg

from training.chat.endpoint import EndpointDownError
from training.runtime import interrupts
from training.storage.files import UNWRITABLE

MAX_RETRIES = 3
RETRY_DELAY = 30.0
"""Seconds before the first retry, doubled before each further one, with jitter."""

TRANSIENT_ERRORS = (OSError, EndpointDownError)
PERMANENT_ERRORS = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    NotADirectoryError,
    IsADirectoryError,
    ValueError,
)
NETWORK_LIBRARIES = {"aiohttp", "botocore", "httpcore", "httpx", "httpx2", "requests", "urllib3"}
"""Libraries of hubs and file systems whose errors are mostly no OSError."""
RETRY_STATUSES = {408, 425, 429}
"""The HTTP statuses from 400 to 499 that ask the client to come back later."""
END = object()
INTERRUPTED = "interrupted; materialise again to go on from here"


def retry_on_outage() -> dg.RetryPolicy:
    """The retry policy of every asset that calls a remote service."""
    return dg.RetryPolicy(MAX_RETRIES, delay=RETRY_DELAY, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)


def no_retry_on_permanent_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """An asset's function, raising dagster.Failure without retries for every error that no retry would mend."""
    if isgeneratorfunction(function):

        @wraps(function)
        def yielding(*args: Any, **kwargs: Any) -> Iterator[Any]:
            results = function(*args, **kwargs)
            while True:
                with _permanent_errors_fail():  # not while Dagster has the turn: signals are its own then
                    result = next(results, END)
                if result is END:
                    return
                yield result

        return yielding

    return _permanent_errors_fail()(function)


@contextmanager
def _permanent_errors_fail() -> Iterator[None]:
    if multiprocessing.parent_process() is not None:
        interrupts.listen()
    try:
        with interrupts.raising_once():
            yield
    except dg.Failure:  # it states itself whether it is retried
        raise
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError) as error:
        raise dg.Failure(INTERRUPTED, allow_retries=False) from error
    except Exception as error:
        if is_transient(error):
            raise
        message = str(error) if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {error}"
        raise dg.Failure(message, allow_retries=False) from error


def is_transient(error: Exception) -> bool:
    """Whether a retry may succeed: the other side was not there, broke off or was busy, and did not refuse."""
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int) and 400 <= status < 500:
        return status in RETRY_STATUSES
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return False
    network = type(error).__module__.partition(".")[0] in NETWORK_LIBRARIES
    return not isinstance(error, PERMANENT_ERRORS) and (network or isinstance(error, TRANSIENT_ERRORS))
