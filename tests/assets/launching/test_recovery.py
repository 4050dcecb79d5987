"""However a program, its step or its run ends: no process is left, and the next run resumes from the checkpoint.

The instance, the runs, their steps and the programs are real, each in processes of its own.
"""

import os
import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from tests.assets.launching.runs import counting, instance_folder, start_run, work
from training.runtime.devices import try_claim

SOON = {"sigint_grace": 0.5, "sigterm_grace": 0.5}


@dataclass
class Place:
    """Where a test's runs work."""

    home: Path
    instance: dg.DagsterInstance
    devices: Sequence[str]

    def config(self, launch: dict[str, Any], **program: Any) -> dict[str, Any]:
        backend = {"kind": "local", "devices": list(self.devices)}
        config = {"home": str(self.home), "launch": {"backend": backend, **launch}, "program": program}
        return {"ops": {"count": {"config": config}}}

    def assert_no_process_is_left(self, processes: Sequence[psutil.Process]) -> None:
        """Every process has ended, and its devices are free."""
        _, alive = psutil.wait_procs(processes, timeout=60)
        assert alive == []
        free = try_claim(self.devices, len(self.devices))
        assert free is not None
        with free:
            pass

    def assert_slot_is_free(self) -> None:
        assert self.instance.event_log_storage.get_concurrency_info("gpu").active_slot_count == 0

    def assert_next_run_resumes(self) -> None:
        """Runs the job in this process."""
        assert counting.execute_in_process(self.config({}), instance=self.instance).success
        published = work(self.home).reuse()
        assert published is not None
        counts = published.provenance["counts"]
        assert (counts["resumed_from"], counts["counted"]) == (2, 4)
        self.assert_slot_is_free()


@pytest.fixture
def place(tmp_path: Path, devices: Sequence[str]) -> Iterator[Place]:
    with dg.DagsterInstance.from_config(str(instance_folder(tmp_path))) as instance:
        yield Place(tmp_path, instance, devices)


@pytest.mark.parametrize(
    ("behaviour", "launch", "message"),
    [
        ("run out of memory", {}, r"was killed \(SIGKILL: mostly for want of memory\)"),
        ("hang", {"heartbeat_timeout": 10.0}, r"has reported nothing for \d\d s: it hangs"),
    ],
)
def test_a_program_that_dies_or_hangs_fails_its_step(
    place: Place, tmp_path: Path, behaviour: str, launch: dict[str, Any], message: str
) -> None:
    pids = tmp_path / "pids"
    config = place.config({**SOON, **launch}, behaviour=behaviour, pids=str(pids))
    with dg.execute_job(dg.reconstructable(counting), place.instance, config) as result:
        assert not result.success
        failure = result.failure_data_for_node("count")
        assert failure is not None and failure.user_failure_data is not None
        assert re.search(message, str(failure.user_failure_data.description))
    processes = [int(pid) for pid in pids.read_text().split()]
    assert len(processes) == 3 and not any(map(psutil.pid_exists, processes))
    place.assert_no_process_is_left([])
    place.assert_slot_is_free()
    place.assert_next_run_resumes()


@pytest.mark.parametrize("killed", ["step", "run", "run and step", "none: cancelled"])
def test_a_program_that_ignores_signals_does_not_outlive_its_step(place: Place, tmp_path: Path, killed: str) -> None:
    pids = tmp_path / "pids"
    os.mkfifo(pids)
    run = start_run(tmp_path / "dagster", place.config(SOON, behaviour="ignore signals", pids=str(pids)))
    program, *below = (psutil.Process(int(pid)) for pid in pids.read_text().split())
    supervisor, step, parent = program.parents()[:3]
    assert parent.pid == run.pid
    match killed:
        case "step":
            step.kill()
        case "run":
            run.kill()
        case "run and step":
            run.kill()
            step.kill()
        case _:
            run.send_signal(signal.SIGINT)
    run.wait(timeout=60)
    place.assert_no_process_is_left([program, *below, supervisor, step])
    if killed.startswith("run"):  # the daemon's run monitoring gives the slot back: what it does
        (record,) = place.instance.get_run_records()
        place.instance.event_log_storage.free_concurrency_slots_for_run(record.dagster_run.run_id)
    place.assert_slot_is_free()
    place.assert_next_run_resumes()
