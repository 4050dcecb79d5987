"""Who has a part in a training is killed outright, before, during and after publishing: nothing lost, nothing left.

`make kills`, a quarter of an hour. `make test` has two of the cells (tests/pipelines/test_kills.py).
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import get_args

import pytest

from assets.checkpoints.assets import SFT
from tests.kills.matrix import RECIPE, Place, When, Who, assert_nothing_is_left, kill, prepare, settled, trained
from tests.pipelines.ui_server import Ui, processes_of, ui
from tests.processes import until

ENDS_THE_UI = ("daemon", "webserver", "ui", "everybody")
ALL_MOMENTS: tuple[Who, ...] = ("launcher", "run worker", "daemon", "webserver", "everybody")
CELLS: list[tuple[Who, When]] = [
    ("program", "before"),
    ("program", "during"),  # it has ended before anything is published
    *((who, when) for who in ALL_MOMENTS for when in get_args(When)),
    ("supervisor", "before"),
    ("ui", "before"),
]


class Serving:
    """A UI, started anew when a cell has ended it."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._stack = ExitStack()
        self._ui: Ui | None = None

    def ui(self) -> Ui:
        if self._ui is None or self._ui.process.poll() is not None:
            self.close()
            self._ui = self._stack.enter_context(ui(self.place.home, self.place.profile))
        return self._ui

    def close(self) -> None:
        self._stack.close()
        self._ui = None


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    serving = Serving(prepare(tmp_path_factory.mktemp("kills")))
    yield serving
    serving.close()


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """The rows of a table of outcomes, printed at the end."""
    rows = ["| killed | when | its run | the next run | the work before |", "|---|---|---|---|---|"]
    yield rows
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print("", *rows, sep="\n")


@pytest.mark.parametrize(("who", "when"), CELLS)
def test_nothing_is_lost_and_nothing_left(serving: Serving, table: list[str], who: Who, when: When) -> None:
    place = serving.place
    place.forget()
    served = serving.ui()
    killed = kill(place, served, who, when)
    if who in ENDS_THE_UI:
        until(lambda: served.process.poll() is not None, "the UI has ended")
        until(lambda: not processes_of(place.home), "all that it started has ended")
        assert serving.ui() is not served, "it starts again"
    ended = settled(place, killed.run)
    assert_nothing_is_left(place, killed.workers)
    if when == "after":
        trained(place)
    again = serving.ui().launch("06_train_sft", [SFT], RECIPE, checks=False)
    assert serving.ui().finished(again) == "SUCCESS", serving.ui().errors(again)
    artifact = trained(place)
    resumed = artifact.provenance["counts"]["resumed_from"]
    if when == "before":
        assert resumed.startswith("checkpoint-")
    else:
        assert place.result_time() == killed.result, "nothing was trained again"
    kept = f"resumed from {resumed}" if when == "before" else "kept" if when == "during" else "published, kept"
    table.append(f"| {who}{' (gone already)' if killed.already_gone else ''} | {when} | {ended} | SUCCESS | {kept} |")
