"""Time limits of programs: since their start (timeout) and since their last progress (heartbeat_timeout)."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from assets.launching.backend import Program, failure
from assets.launching.launcher import LaunchSettings, _Watch
from training.runtime.programs import FAILURE, METRICS
from training.storage.files import write_json

Clock = Callable[[float], None]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Sets the time."""
    return lambda now: monkeypatch.setattr(time, "time", lambda: now)


def program(out: Path, module: str = "training.sft") -> Program:
    out.mkdir(exist_ok=True)
    return Program(module, out, [], 1, True, {})


def report(program: Program, now: float) -> None:
    (program.out / METRICS).touch()
    os.utime(program.out / METRICS, (now, now))


def test_a_program_has_its_time_from_its_own_start(tmp_path: Path, clock: Clock) -> None:
    watch = _Watch(LaunchSettings(timeout={"training.sft": 100.0}), lambda *_: None)
    first, second = program(tmp_path / "first"), program(tmp_path / "second")
    for now, running in ((0.0, [first]), (99.0, [first]), (150.0, [second]), (249.0, [second])):
        clock(now)
        watch(running)
    clock(251.0)
    with pytest.raises(dg.Failure, match="second has run for 101 s, longer than"):
        watch([second])


def test_a_program_is_silent_since_its_start_or_its_last_progress(tmp_path: Path, clock: Clock) -> None:
    watch = _Watch(LaunchSettings(heartbeat_timeout=100.0), lambda *_: None)
    one = program(tmp_path / "one")
    report(one, 1000.0)  # in an earlier start
    for now in (5000.0, 5099.0):
        clock(now)
        watch([one])
    report(one, 5099.0)
    clock(5198.0)
    watch([one])
    clock(5200.0)
    with pytest.raises(dg.Failure, match="has reported nothing for 101 s: it hangs"):
        watch([one])


def test_other_programs_have_no_time_limit(tmp_path: Path, clock: Clock) -> None:
    watch = _Watch(LaunchSettings(timeout={"training.sft": 100.0}), lambda *_: None)
    for now in (0.0, 1e9):
        clock(now)
        watch([program(tmp_path / "rl", "training.rl")])


@pytest.mark.parametrize(
    ("status", "message", "allow_retries"),
    [
        (1, "ended with status 1", False),
        (2, "ended with status 2", False),
        (75, "ended with status 75", True),
        (-9, "was killed (SIGKILL: mostly for want of memory)", False),
        (-11, "was ended by SIGSEGV", False),
        (None, "failed", False),
    ],
)
def test_a_failure_names_the_status_or_the_signal(
    tmp_path: Path, status: int | None, message: str, allow_retries: bool
) -> None:
    failed = failure(program(tmp_path / "out"), status, ["the last line"])
    assert failed.description == f"training.sft {message} in {tmp_path / 'out'}:\nthe last line"
    assert failed.allow_retries == allow_retries


@pytest.mark.parametrize(("left", "retried"), [({"status": 75}, True), ({"status": 2}, False), (None, False)])
def test_what_a_program_left_counts_before_the_status_of_its_launcher(
    tmp_path: Path, left: dict[str, int] | None, retried: bool
) -> None:
    """`accelerate launch` ends with 1 whatever its processes end with."""
    one = program(tmp_path / "one")
    if left is not None:
        write_json(one.out / FAILURE, left)
    assert failure(one, 1, []).allow_retries is retried
