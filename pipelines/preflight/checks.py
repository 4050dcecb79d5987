"""All checks of a profile, side by side, within a bounded time."""

import time
from collections.abc import Callable, Iterable, Iterator
from threading import Thread

from pipelines.preflight.machine import disk_problems, gpu_problems, memory_problems
from pipelines.preflight.models import base_problems
from pipelines.preflight.servers import endpoint_problems, judge_problems, served_checkpoint_problems
from pipelines.preflight.sources import benchmark_problems, clip_problems, multiple_choice_problems, trajectory_problems
from pipelines.profile import Profile
from training.runtime.printable import printable

TIMEOUT = 60.0
"""Seconds for all checks together."""
MAX_CHARACTERS = 1000
"""Of a problem: a library's message may be a page."""

Check = Callable[[Profile], Iterable[str]]
CHECKS: dict[str, Check] = {
    "trajectories": trajectory_problems,
    "clips": clip_problems,
    "benchmarks": benchmark_problems,
    "multiple-choice set": multiple_choice_problems,
    "base model": base_problems,
    "endpoint": endpoint_problems,
    "served checkpoints": served_checkpoint_problems,
    "judge": judge_problems,
    "disk": disk_problems,
    "memory": memory_problems,
    "GPUs": gpu_problems,
}


def run_checks(profile: Profile, timeout: float = TIMEOUT) -> Iterator[tuple[str, list[str]]]:
    """The title and the problems of each check, in order."""
    problems: dict[str, list[str]] = {}

    def run(title: str) -> None:
        problems[title] = [_on_one_line(problem) for problem in _problems(CHECKS[title], profile)]

    # daemons: one that hangs, as at a lost network mount, does not keep the process
    threads = {title: Thread(target=run, args=(title,), daemon=True) for title in CHECKS}
    for thread in threads.values():
        thread.start()
    deadline = time.monotonic() + timeout
    for title, thread in threads.items():
        thread.join(max(0.0, deadline - time.monotonic()))
        yield title, problems.get(title, [f"no result after {timeout:g} s: does a file system or a server hang?"])


def _problems(check: Check, profile: Profile) -> Iterator[str]:
    """What the check yields, and what it raises: file systems of fsspec raise errors of their own libraries."""
    try:
        yield from check(profile)
    except (ValueError, OSError) as error:
        yield str(error)
    except Exception as error:
        yield f"{type(error).__name__}: {error}"


def _on_one_line(text: str) -> str:
    line = " ".join(printable(text).split())
    return line if len(line) <= MAX_CHARACTERS else f"{line[:MAX_CHARACTERS]} ..."
