"""What is tried again, and what fails at once: the one rule.

Tried again is only what may pass by itself: a source, a hub, a served model or a judge that cannot be reached, breaks
off or has had enough.  A wrong configuration, wrong input, a missing file and a defect are the same the second time,
and a local program that fails is not started again unasked.  What was done before a failure is found by the next try.
A step that INT or TERM ends is not tried again either: Dagster's own handling would take that for an outage.
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

TRIES = 3
"""After the first."""
SECONDS = 30.0
"""Before the second try, twice as long before each further one, give or take."""

OUTAGES = (OSError, EndpointDownError)
HERE_TO_STAY = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError, ValueError)
NETWORKS = {"aiohttp", "botocore", "httpcore", "httpx", "httpx2", "requests", "urllib3"}
"""Libraries of hubs and file systems whose errors are mostly no OSError."""
END = object()
INTERRUPTED = "interrupted; materialise again to go on from here"
TOO_EARLY = {408, 425, 429}
"""Of the statuses from 400 to 499, those that say to come back later."""


def after_outages() -> dg.RetryPolicy:
    """The policy of every asset that asks something remote."""
    return dg.RetryPolicy(max_retries=TRIES, delay=SECONDS, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)


def no_retry_on_permanent_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """What an asset is made by, raising dagster.Failure without retries for all that no further try would mend."""
    if isgeneratorfunction(function):

        @wraps(function)
        def yielding(*args: Any, **kwargs: Any) -> Iterator[Any]:
            made = function(*args, **kwargs)
            while True:
                with _no_vain_retries():  # not while Dagster has the turn: signals are its own then
                    event = next(made, END)
                if event is END:
                    return
                yield event

        return yielding

    @wraps(function)
    def returning(*args: Any, **kwargs: Any) -> Any:
        with _no_vain_retries():
            return function(*args, **kwargs)

    return returning


@contextmanager
def _no_vain_retries() -> Iterator[None]:
    if multiprocessing.parent_process() is not None:
        interrupts.listen()
    try:
        with interrupts.raising_once():
            yield
    except dg.Failure:  # it says itself whether
        raise
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError) as error:
        raise dg.Failure(INTERRUPTED, allow_retries=False) from error
    except Exception as error:
        if may_pass(error):
            raise
        said = str(error) if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {error}"
        raise dg.Failure(said, allow_retries=False) from error


def may_pass(error: Exception) -> bool:
    """Whether the next try may succeed: somebody was not there, broke off or was busy; nobody refused."""
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int) and 400 <= status < 500:
        return status in TOO_EARLY
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return False
    network = type(error).__module__.partition(".")[0] in NETWORKS
    return not isinstance(error, HERE_TO_STAY) and (network or isinstance(error, OUTAGES))
