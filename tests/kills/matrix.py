"""One cell of the kill matrix: somebody who has a part in a training is killed outright, at a chosen moment."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import dagster as dg
import psutil

from assets.checkpoints.assets import SFT
from assets.framework.store import AssetStore
from tests.pipelines.ui_server import Ui, processes_of
from tests.processes import output, until
from tests.reduced import write_reduced_overlay
from training.runtime.programs import RESULT
from training.runtime.project import PROJECT
from training.storage.artifacts import CURRENT, PARTIAL, Artifact
from training.storage.hashing import file_digest

Who = Literal["program", "supervisor", "launcher", "run worker", "daemon", "webserver", "ui", "everybody"]
"""`launcher` is the step's process, `supervisor` stands between it and the program; `ui` is the command that a person
started, `everybody` all processes of the home at once, as when the machine goes down."""
When = Literal["before", "during", "after"]
"""While the program works; when its result is written, and the step publishes; when it is published."""
RECIPE = "future_l1"
STEPS = 24
"""Of the training; a checkpoint every second one."""
PARTS = {"daemon": "pipelines.daemon", "webserver": "pipelines.webserver"}


@dataclass(frozen=True)
class Place:
    """A home with everything that an SFT recipe is trained on, and the profile that trains it."""

    home: Path
    profile: str

    @property
    def store(self) -> AssetStore:
        return AssetStore(self.home)

    @property
    def folder(self) -> Path:
        """Where the checkpoint's artifacts are."""
        return self.store.artifacts.root / SFT / RECIPE

    def forget(self) -> None:
        """Removes the checkpoint and all that its training left."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def workspace(self) -> Path | None:
        return next(iter(self.folder.glob(f"*{PARTIAL}")), None)

    def published(self) -> bool:
        return (self.folder / CURRENT).is_symlink()

    def checkpoint(self) -> bool:
        """Whether there is something to resume from."""
        return any(self.folder.glob(f"*{PARTIAL}/steps/checkpoint-*/trainer_state.json"))

    def result(self) -> bool:
        """Whether the program has done its work, and the step not yet published it."""
        return any(self.folder.glob(f"*{PARTIAL}/{RESULT}"))

    def result_time(self) -> int | None:
        """When the program wrote its result, published or not."""
        for path in (*self.folder.glob(f"*{PARTIAL}/{RESULT}"), self.folder / CURRENT / RESULT):
            if path.is_file():
                return path.stat().st_mtime_ns
        return None


def prepare(folder: Path) -> Place:
    """The reduced demo up to what is trained on, with Dagster looking after its runs every two seconds."""
    profile = write_reduced_overlay(folder / "kills.toml", steps=STEPS)
    home = folder / "home"
    settings = (PROJECT / "instance" / "dagster.yaml").read_text()
    for name, seconds in {"poll_interval_seconds": 2, "free_slots_after_run_end_seconds": 5}.items():
        (line,) = (line for line in settings.splitlines() if line.strip().startswith(f"{name}:"))
        settings = settings.replace(line, f"  {name}: {seconds}")
    (home / "dagster").mkdir(parents=True)
    (home / "dagster" / "dagster.yaml").write_text(settings)
    output("curate", FUTURE_L1_HOME=str(home), FUTURE_L1_PROFILE=str(profile))
    return Place(home, str(profile))


@dataclass(frozen=True)
class Family:
    """Who works on a training, from the program up to the run's own process."""

    program: psutil.Process
    supervisor: psutil.Process
    launcher: psutil.Process
    run_worker: psutil.Process

    def living(self) -> list[psutil.Process]:
        return [one for one in (self.program, self.supervisor, self.launcher, self.run_worker) if _lives(one)]


def family(place: Place) -> Family | None:
    """The processes of the training, from the program, whose command line names its workspace, upwards."""
    for process in psutil.process_iter():
        try:
            if process.cmdline()[1:3] == ["-m", "training.sft"] and str(place.folder) in process.cmdline()[-1]:
                supervisor, *parents = process.parents()
                # a step is a fork of one process of its run
                launcher, _, run_worker = [one for one in parents if "multiprocessing" in " ".join(one.cmdline())]
                return Family(process, supervisor, launcher, run_worker)
        except psutil.NoSuchProcess:
            continue
    return None


@dataclass(frozen=True)
class Killed:
    """The state of a training at the moment of a kill."""

    run: str
    workers: Family
    already_gone: bool
    """Whether there was nobody left to kill: a program ends before its step publishes."""
    result: int | None
    """When the program's result was written, if it was; another start would write it anew."""


def kill(place: Place, ui: Ui, who: Who, when: When) -> Killed:
    """Start a training, and end `who` with SIGKILL at the moment."""
    run = ui.launch("06_train_sft", [SFT], RECIPE, checks=False)
    workers = until(lambda: family(place), "the program has started", interval=0.02)
    parts = {who: [ui.part(PARTS[who])]} if who in PARTS else {}
    until(
        {"before": place.checkpoint, "during": place.result, "after": place.published}[when],
        f"it is the moment {when} publishing",
        interval=0.002,
    )
    match who:
        case "everybody":
            doomed = [psutil.Process(ui.process.pid), *processes_of(place.home)]
        case "ui":
            doomed = [psutil.Process(ui.process.pid)]
        case "daemon" | "webserver":
            doomed = parts[who]
        case _:
            doomed = [getattr(workers, who.replace(" ", "_"))]
    living = [one for one in doomed if _lives(one)]
    for one in living:
        one.kill()
    assert when == "after" or not place.published(), "the kill came after publishing"
    return Killed(run, workers, not living, place.result_time())


def assert_nothing_is_left(place: Place, workers: Family) -> None:
    """Waits until no process of the training lives, and the pool's slot and the workspace's lock are free."""
    until(lambda: not workers.living(), "everybody who worked on the training has ended")
    assert family(place) is None
    until(lambda: slots(place.home) == 0, "the gpu pool's slot is free")
    workspace = place.workspace()
    if workspace is not None:
        descriptor = os.open(workspace, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)


def settled(place: Place, run: str) -> str:
    """The status in which a run ended; waits for it."""

    def ended() -> str | None:
        with instance_of(place.home) as instance:
            record = instance.get_run_by_id(run)
            return record.status.value if record and record.is_finished else None

    return until(ended, f"run {run} is not said to go on", interval=0.5)


def slots(home: Path) -> int:
    """How many slots of the pool `gpu` are taken."""
    with instance_of(home) as instance:
        return instance.event_log_storage.get_concurrency_info("gpu").active_slot_count


@contextmanager
def instance_of(home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        yield instance


def trained(place: Place) -> Artifact:
    """The published checkpoint, every file of which is as its manifest says."""
    artifact = place.store.current(SFT, RECIPE)
    for name, file in artifact.manifest["files"].items():
        assert file_digest(artifact.path / name) == file["sha256"], name
    return artifact


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
