"""The frame of the GPU programs: a JSON config, progress, metrics, a locked device and a result.

A program is a module whose last lines are `if __name__ == "__main__": run_program(SftConfig, main)`. It is started as
`python -m training.sft --config sft.json`, by hand or by Dagster's launcher, and leaves in its working folder

    config.json     its config (written by the launcher)
    progress.json   {"done", "total", "what"}: its current state
    metrics.jsonl   {"step", name: value, ...}: one line a report; after a resumed run the last line of a step counts
    result.json     what `main` returned, written last
    failure.json    {"status": 2 or 75}, where it ended so: `accelerate launch` makes 1 of every status

Under Dagster its log lines, progress and metrics also travel through Pipes. Each of its processes holds the lock of its
GPU for as long as it lives (`training.runtime.devices`).
"""

import argparse
import fcntl
import gc
import inspect
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

from dagster_pipes import PipesContext, PipesEnvVarParamsLoader, open_dagster_pipes
from pydantic import BaseModel, ConfigDict

from training.runtime.devices import TooFewDevicesError, process_device
from training.runtime.errors import OutageError, PermanentError
from training.runtime.interrupts import exiting
from training.runtime.model_card import CardFields
from training.runtime.printable import printable
from training.runtime.supervisor import TETHERED, die_with_parent
from training.storage.files import write_json

PROGRESS = "progress.json"
METRICS = "metrics.jsonl"
RESULT = "result.json"
FAILURE = "failure.json"
CHECKPOINT = "checkpoint"
"""The folder with the model that a training program leaves."""
CONFIG_ERROR = 2
"""The exit status of a program that no retry will help."""
OUTAGE = 75
"""The exit status of a program whose model or judge does not answer: a later start may go on (EX_TEMPFAIL)."""

# Every event is a row in Dagster's database, and a line on a person's screen.
SECONDS_BETWEEN_EVENTS = 10.0
SECONDS_BETWEEN_FILES = 0.2


class ProgramConfig(BaseModel):
    """The config of every program: the folder to work and resume in, and the device."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    out: Path
    device: Literal["auto", "cpu", "cuda"] = "auto"


class TrainingConfig(ProgramConfig):
    """The config of both trainings.

    data: a file of rows, .parquet, .json, .jsonl or .jsonl.gz: a training set of the lineage, future_l1_50k.parquet or
    .json as `future-l1 curate` writes them, the public Future-L1-50K, or your own records, in .jsonl one a line:

        {"video": "a.mp4", "question": "What happens next?", "observed": [1, 2], "future": [5, 6],
         "reasoning": ["The cup slides to the edge.", "It falls.", ""], "answer": "The cup breaks."}

    observed and future are key frames 1..8 of the clip; RL needs a question and an answer alone.  A row that cannot be
    used is in out/skipped.jsonl with the reason.  docs/inputs.md has all layouts; `future-l1 inspect --records` shows
    what training makes of a record.

    clips: the folder that holds the rows' clips; without it they lie relative to the file.
    report_to: trackers that metrics go to beside metrics.jsonl, by transformers' names ("trackio", "wandb", ...).
    card: what the checkpoint's model card says beside what the training knows.
    """

    data: Path
    clips: Path | None = None
    seed: int = 0
    report_to: tuple[str, ...] = ()
    card: CardFields = CardFields()


Config = TypeVar("Config", bound=ProgramConfig)


class Reporter:
    """Reports a program's progress to its files and to Dagster; cheap enough to call at every step."""

    def __init__(self, out: Path, pipes: PipesContext | None = None, quiet: bool = False) -> None:
        self._out = out
        self._pipes = pipes
        self._quiet = quiet
        self._last_file = 0.0
        self._last_event = time.monotonic()
        self._last_metrics: dict[str, Any] = {}

    def log(self, message: str) -> None:
        """One line for the log."""
        if self._quiet:
            return
        (self._out / METRICS).touch()  # a sign of life
        message = printable(message)  # some quote servers and data
        print(message, flush=True)
        if self._pipes is not None:
            self._pipes.log.info(message)

    def progress(self, done: int, total: int, what: str) -> None:
        """`done` of `total` steps of the activity `what`; the last one is always reported."""
        if self._quiet:
            return
        now = time.monotonic()
        if now - self._last_file >= SECONDS_BETWEEN_FILES or done >= total:
            self._last_file = now
            write_json(self._out / PROGRESS, {"done": done, "total": total, "what": what})
        if now - self._last_event >= SECONDS_BETWEEN_EVENTS:
            self._last_event = now
            figures = ", ".join(f"{name} {value:.4g}" for name, value in self._last_metrics.items())
            self.log(f"{what}: {done} of {total}" + (f" ({figures})" if figures else ""))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one line of metrics to metrics.jsonl."""
        if self._quiet:
            return
        self._last_metrics = dict(values)
        with (self._out / METRICS).open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def read_metrics(out: Path) -> list[dict[str, float]]:
    """The metrics in a program's folder in order of step; of a step that was logged twice, the last ones."""
    path = out / METRICS
    if not path.is_file():
        return []
    lines = [line for line in path.read_text().splitlines() if line.endswith("}")]  # a kill may cut the last one
    by_step: dict[float, dict[str, float]] = {}
    for record in map(json.loads, lines):
        by_step.setdefault(record["step"], {}).update(record)
    return [by_step[step] for step in sorted(by_step)]


def read_progress(out: Path) -> tuple[int, int, str] | None:
    """Done, total and activity of the program that works in `out`; None before its first report."""
    path = out / PROGRESS
    if not path.is_file():
        return None
    progress = json.loads(path.read_text())
    return progress["done"], progress["total"], progress["what"]


def read_failure(out: Path) -> int | None:
    """The status with which a process of the program that worked in `out` ended for a reason of ours; else None."""
    path = out / FAILURE
    return json.loads(path.read_text())["status"] if path.is_file() else None


def last_report_time(out: Path) -> float:
    """The time of the last report of the program that works in `out`, in seconds since the epoch; else 0."""
    return max((path.stat().st_mtime for name in (PROGRESS, METRICS) if (path := out / name).is_file()), default=0.0)


def is_first() -> bool:
    """Whether this is the only process, or the one of several that logs and writes."""
    return int(os.environ.get("RANK", "0")) == 0


def run_program(config_type: type[Config], main: Callable[[Config, Reporter], Mapping[str, Any]]) -> None:
    """Parses `--config FILE.json`, runs `main` and writes what it returns to `out/result.json`.

    Ends with status 2 on a config that does not validate and on a PermanentError, 75 on an OutageError, 130 when
    interrupted and 143 when terminated.  Whatever `main` left in `out` is there for the next start.
    """
    name = _name(main)
    config = _parse(config_type, name)
    sys.excepthook = _print_error
    if os.environ.get(TETHERED):
        die_with_parent()
    config.out.mkdir(parents=True, exist_ok=True)
    first = is_first()
    sentence = f"the next start goes on from what is in {config.out}"
    try:
        with exiting(sentence), _pipes(first) as pipes, _lock(config.out, first), _device(config.device) as device:
            reporter = Reporter(config.out, pipes, quiet=not first)
            reporter.log(f"{name} on {device} in {config.out}")
            result = main(config, reporter)
            if first:
                write_json(config.out / RESULT, dict(result), sort_keys=True, allow_nan=True)
    except (PermanentError, OutageError) as error:
        print(printable(error, keep="\n"), file=sys.stderr, flush=True)
        status = CONFIG_ERROR if isinstance(error, PermanentError) else OUTAGE
        with suppress(OSError):  # the disk may be full, or the folder not to be written
            write_json(config.out / FAILURE, {"status": status})
        sys.exit(status)
    finally:
        _end_own_group()
        gc.freeze()  # else the interpreter's end looks for garbage in all that was imported, for seconds


def _print_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A traceback whose message, which may quote servers and data, does not steer a terminal."""
    text = "".join(traceback.format_exception(kind, error, trace))
    print(printable(text, keep="\n"), file=sys.stderr, flush=True)


def _name(main: Callable[..., Any]) -> str:
    """The program's name as `python -m` takes it (`training.sft`), or the file of a script."""
    spec = sys.modules[main.__module__].__spec__
    return spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).name


def _parse(config_type: type[Config], name: str) -> Config:
    configs = [c for c in config_type.__mro__ if issubclass(c, ProgramConfig)]
    description = "\n\n".join(inspect.cleandoc(c.__doc__ or "") for c in configs)
    parser = argparse.ArgumentParser(
        prog=f"python -m {name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE.json")
    path = parser.parse_args().config
    try:
        return config_type.model_validate_json(path.read_text())
    except ValueError as error:
        parser.exit(CONFIG_ERROR, f"{path}: {error}\n")


@contextmanager
def _pipes(first: bool) -> Iterator[PipesContext | None]:
    """Dagster Pipes, in the first process of a program that Dagster started."""
    if not first or not PipesEnvVarParamsLoader().is_dagster_pipes_process():
        yield None
        return
    with open_dagster_pipes() as pipes:
        yield pipes


@contextmanager
def _lock(out: Path, first: bool) -> Iterator[None]:
    """The lock of `out`: a program whose step was killed may still be writing its checkpoint there."""
    if not first:
        yield
        return
    with (out / METRICS).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting until the program that works in {out} has ended", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _device(device: str) -> Iterator[str]:
    """The name of this process's device, whose lock it holds (`training.runtime.devices`).

    Raises TooFewDevicesError where the config wants a GPU and there is none.
    """
    if device == "cpu":
        yield device
        return
    with process_device(lambda line: print(line, flush=True)) as claimed:
        if claimed is None and device == "cuda":
            _check_cuda()
        yield claimed or device


def _check_cuda() -> None:
    """No lock is held where nvidia-smi names no device; torch may know one all the same."""
    import torch

    if not torch.cuda.is_available():
        raise TooFewDevicesError("the config wants a GPU (device = cuda), and none is visible on this machine")


def _end_own_group() -> None:
    """Ends the other processes of the group that the launcher made, so that no worker is left."""
    if os.environ.get(TETHERED) and os.getpgrp() == os.getpid():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(os.getpgrp(), signal.SIGTERM)
