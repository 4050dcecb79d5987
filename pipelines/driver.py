"""`run_plan`: runs a plan of jobs in this process with progress bars, for `demo`, `curate` and `train`.

Steps whose artifacts are published already re-emit them, so a plan that is run again takes a moment a step and changes
nothing. Dagster's own log, and what programs print, go to a file.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from assets.framework.partitions import SHARDS, key_of, range_tags
from pipelines.definitions import build_definitions
from pipelines.heartbeat import set_activity
from pipelines.instance import DRIVER_TAG, driver_instance
from pipelines.jobs import Step
from pipelines.profile import Profile
from training.runtime import interrupts

LOG_LEVEL = {"loggers": {"console": {"config": {"log_level": "WARNING"}}}}


class StepFailedError(RuntimeError):
    """A step of a plan failed; the message is the first cause."""


class Screen(Progress):
    """Two progress bars: the step of the plan, and the work inside the step; the heartbeat has both in words."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._step = "starting"
        self._plan = self.add_task("starting", total=None)
        self._work = self.add_task("", total=None, visible=False)

    def step(self, number: int, total: int, title: str) -> None:
        self._step = f"step {number + 1} of {total}, {title}"
        set_activity(self._step)
        self.update(self._plan, description=title, completed=number, total=total)
        self.reset(self._work, visible=False)

    def __call__(self, done: int, total: int, what: str) -> None:
        set_activity(f"{self._step}: {what}, {done} of {total}")
        self.update(self._work, description=f"  {what}", completed=done, total=total, visible=True)


def run_plan(
    profile: Profile, steps: Sequence[Step], console: Console, before: Callable[[Step], None] = lambda step: None
) -> list[str]:
    """Run the steps in order; returns the messages of asset checks that failed without stopping the plan, each once.

    `before` is called before each step, and may raise StepFailedError.  Raises StepFailedError at the first step that
    fails; the next start goes on from the artifacts of the steps before it.
    """
    profile.home.mkdir(parents=True, exist_ok=True)
    log = profile.home / "runs.log"
    warnings: list[str] = []
    with _terminal(console) as terminal, driver_instance(profile.home) as instance:
        screen = Screen(terminal)
        definitions = build_definitions(profile, screen)
        with _redirected_output(log), screen:
            for number, step in enumerate(steps):
                screen.step(number, len(steps), step.description)
                started = time.monotonic()
                before(step)
                warnings += _run(definitions, instance, step, log)
                terminal.print(f"[green]✓[/] {step.description}  [dim]{time.monotonic() - started:.1f} s[/]")
    return list(dict.fromkeys(warnings))  # a check of several models is executed with each step that makes one


def _run(definitions: dg.Definitions, instance: dg.DagsterInstance, step: Step, log: Path) -> list[str]:
    partitions = instance.get_dynamic_partitions(str(SHARDS.name)) if step.shards else step.partitions
    result = definitions.resolve_job_def(step.stage.job).execute_in_process(
        instance=instance,
        partition_key=partitions[0] if len(partitions) == 1 else None,
        asset_selection=[key_of(key) for key in step.only] or None,
        tags={DRIVER_TAG: "in process", **range_tags(partitions)},
        run_config=LOG_LEVEL,
        raise_on_error=False,
    )
    if interrupts.received():  # between steps, Dagster only takes a note of it
        raise KeyboardInterrupt
    failed = [evaluation for evaluation in result.get_asset_check_evaluations() if not evaluation.passed]
    if not result.success:
        raise StepFailedError(f"job {step.stage.job} failed: {_cause(result, failed)}\nthe log is {log}")
    return [_message(evaluation) for evaluation in failed]


def _message(evaluation: dg.AssetCheckEvaluation) -> str:
    return f"check {evaluation.check_name} of {evaluation.asset_key.to_user_string()}: {evaluation.description}"


def _cause(result: dg.ExecuteInProcessResult, failed: Sequence[dg.AssetCheckEvaluation]) -> str:
    """The error of the first failed step, or the messages of the checks that blocked it."""
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data and data.user_failure_data.description:
                return data.user_failure_data.description
            if blocking := [_message(e) for e in failed if e.blocking and e.severity == dg.AssetCheckSeverity.ERROR]:
                return "\n".join(blocking)
            error = data.error.cause if data.error and data.error.cause else data.error
            return error.message if error else str(event.message)
    return "no step failed with an error"


@contextmanager
def _terminal(console: Console) -> Iterator[Console]:
    """A console on a duplicate of standard output, which stays on the terminal while output is redirected."""
    sys.stdout.flush()
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1) as duplicate:
        yield Console(
            file=duplicate, force_terminal=console.is_terminal, width=console.width if console.is_terminal else 120
        )


@contextmanager
def _redirected_output(log: Path) -> Iterator[None]:
    """Send this process's standard output and error, and so its children's, to the end of a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    originals = [os.dup(1), os.dup(2)]
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in enumerate(originals, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)
