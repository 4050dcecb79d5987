"""Every command ends soon on INT and on TERM, at every stage, prints how to go on, sends no more requests, and resumes.

The demo's stages, trainings and reports among them, are in tests/pipelines/test_reduced_demo.py.
"""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from assets.curation.assets import ANSWERS
from pipelines.driver import run_plan
from pipelines.jobs import INGEST, LIST_SOURCE, WRITE_SOURCE, Step
from pipelines.profile import overlaid
from tests.loopback import file_server
from tests.pipelines.served_shards import Model, judge, write_shards
from tests.pipelines.test_evaluate import world
from tests.pipelines.ui_server import processes_of, ui
from tests.processes import environment, future_l1, interrupt, output, until
from tests.reduced import reduced_demo, write_overlay
from tests.served import Served, served
from training.grading.toy_judge import MODEL, reply_to
from training.tiny import BASE

INT, TERM = signal.SIGINT, signal.SIGTERM
GOES_ON, STARTS_OVER = "the same command goes on from here", "the same command starts over"


def holding(server: Served, requests: int) -> Callable[[], bool]:
    """Makes a server hold its requests back; whether it has so many."""
    server.latency = 600.0
    return lambda: len(server.requests) >= requests


def release(server: Served) -> int:
    """Lets a server answer; returns the number of its requests."""
    server.closing.set()
    server.closing, server.latency = threading.Event(), 0.0
    return len(server.requests)


def test_curate_ends_at_every_stage_and_goes_on(tmp_path: Path) -> None:
    rows = write_shards(tmp_path, shards=1, rows=12, faults=0)
    (shard,) = (tmp_path / "twiff").iterdir()
    with file_server(tmp_path) as files, served(Model(rows)) as model, served(judge) as judging:
        command = (
            "curate", "--trajectories", f"{files.url}/twiff/{shard.name}", "--clips", f"{files.url}/clips", "--out",
            tmp_path / "out", "--endpoint", model.url, "--model", "served", "--judge", judging.url, "--judge-model",
            "served", "--concurrency", 2,
        )  # fmt: skip
        for path, number in (("/twiff", INT), ("/clips", TERM)):  # pulled, and probed in threads
            assert GOES_ON in interrupt(future_l1(*command), environment(), files.hold(path), number)
            files.release()
        for server, numbers in ((model, (INT, INT)), (judging, (TERM,))):
            assert GOES_ON in interrupt(future_l1(*command), environment(), holding(server, 2), *numbers)
            assert release(server) == 2, "no request was sent after the end, and none was sent again"
            server.requests.clear()
        output(*command)
        assert (tmp_path / "out" / "summary.json").exists()


def test_evaluate_ends_while_it_answers_and_while_it_is_judged_and_goes_on(
    tmp_path: Path, fork_server: dict[str, str]
) -> None:
    world(tmp_path, 1)
    with served(lambda request, _: reply_to(request["messages"][-1]["content"]), models=(MODEL,)) as judging:
        command = (
            "evaluate", "--checkpoint", BASE, "--benchmark", "twiffbench", "--data-dir", tmp_path / "twiffbench",
            "--out", tmp_path / "out", "--max-new-tokens", 64, "--image-tokens", 4, 16, "--batch-size", 1,
            "--device", "cpu", "--judge", judging.url, "--judge-model", MODEL,
        )  # fmt: skip
        ledger = (tmp_path / "out" / "ledger").glob

        def answering() -> bool:
            return any(path.stat().st_size for path in ledger("*.jsonl"))

        assert GOES_ON in interrupt(future_l1(*command), environment(), answering, INT)
        assert GOES_ON in interrupt(future_l1(*command), environment(**fork_server), holding(judging, 2), TERM)
        release(judging)
        output(*command)
        assert (tmp_path / "out" / "report.json").exists()


def test_terminate_in_the_ui_cancels_a_run_that_waits_for_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    with served() as model:
        profile = overlaid(
            reduced_demo(home),
            {
                "toyworld": {"rows_per_shard": 30, "futurebench_per_split": 1, "twiffbench": 2},
                "source": {"quarantine_limit": 1.0},
                "curation": {"endpoint": {"base_urls": (model.url,), "model": "served", "concurrency": 2}},
            },
        )
        monkeypatch.setenv("DAGSTER_HOME", "")  # what a plan sets goes with the test
        run_plan(profile, [Step(WRITE_SOURCE), Step(LIST_SOURCE), Step(INGEST, shards=True)], Console())
        with ui(home, str(write_overlay(tmp_path / "served.toml", profile))) as dagster:
            run = dagster.launch("04_score", [ANSWERS], "train-00000-of-00003", checks=False)
            until(holding(model, 2), "the server has requests")
            dagster.terminate(run)
            assert dagster.finished(run) == "CANCELED"
            assert release(model) == 2
            assert not [process for process in processes_of(home) if "evaluation.generate" in process.cmdline()]


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        (("score", "--benchmark", "futurebench", "--answers"), TERM),
        (("predict", "--checkpoint", BASE, "--out", "{}/out.json", "--prompts"), INT),
        (("inspect", "--checkpoint", BASE, "--out", "{}/out.json", "--records"), TERM),
    ],
)
def test_a_command_of_one_go_ends_and_starts_over(
    tmp_path: Path, arguments: tuple[object, ...], number: signal.Signals
) -> None:
    """While it reads its input, which does not come."""
    os.mkfifo(tmp_path / "input")
    command = future_l1(*(str(part).format(tmp_path) for part in arguments), tmp_path / "input")

    def is_read() -> bool:
        try:
            writing.append(os.open(tmp_path / "input", os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    writing: list[int] = []
    assert STARTS_OVER in interrupt(command, environment(FUTURE_L1_HOME=str(tmp_path)), is_read, number)
    os.close(writing[0])


@pytest.mark.parametrize("number", [INT, TERM])
def test_a_command_ends_while_it_is_imported(tmp_path: Path, number: signal.Signals) -> None:
    """Which takes seconds: pydantic comes early, dagster and polars after it."""

    def is_imported() -> bool:
        living = [one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE]
        mapped = (region.path for child in living if "steps" in child.cmdline() for region in child.memory_maps())
        return any("pydantic_core" in path for path in mapped)

    message = interrupt(future_l1("steps"), environment(FUTURE_L1_HOME=str(tmp_path)), is_imported, number)
    assert "nothing was begun" in message and "Traceback" not in message
