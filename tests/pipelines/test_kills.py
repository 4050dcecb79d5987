"""A training that is cancelled, or loses its program or its run worker, leaves nothing behind, and the next goes on.

The whole matrix of kills is tests/kills; these two are the likely ones, for want of memory.
"""

from collections.abc import Iterator

import pytest

from assets.checkpoints.assets import SFT
from tests.kills.matrix import RECIPE, Place, Who, assert_nothing_is_left, family, kill, prepare, settled, trained
from tests.pipelines.ui_server import Ui, ui
from tests.processes import until


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return prepare(tmp_path_factory.mktemp("kills"))


@pytest.fixture(scope="module")
def served(place: Place) -> Iterator[Ui]:
    with ui(place.home, place.profile) as served:
        yield served


def test_a_cancelled_training_leaves_nothing_behind_and_the_next_goes_on(served: Ui, place: Place) -> None:
    run = served.launch("06_train_sft", [SFT], RECIPE, checks=False)
    workers = until(lambda: family(place), "the program has started", interval=0.02)
    until(place.checkpoint, "the program has saved a checkpoint", interval=0.02)
    served.terminate(run)
    assert served.finished(run) == "CANCELED"
    assert_nothing_is_left(place, workers)
    assert not place.published()
    assert_the_next_goes_on(served, place)


@pytest.mark.parametrize("who", ["program", "run worker"])
def test_killed_at_work_it_goes_on_from_its_checkpoint(served: Ui, place: Place, who: Who) -> None:
    place.forget()
    killed = kill(place, served, who, "before")
    assert settled(place, killed.run) == "FAILURE"
    assert_nothing_is_left(place, killed.workers)
    assert_the_next_goes_on(served, place)


def assert_the_next_goes_on(served: Ui, place: Place) -> None:
    again = served.launch("06_train_sft", [SFT], RECIPE, checks=False)
    assert served.finished(again) == "SUCCESS", served.errors(again)
    assert trained(place).provenance["counts"]["resumed_from"].startswith("checkpoint-")
