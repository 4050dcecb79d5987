"""Models and toy rows that several rooms' tests share; libraries are imported by the tests that ask for them."""

import gc
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from tests.forks import forking

if TYPE_CHECKING:
    from training.model.checkpoint import FutureL1
    from training.model.encoding import Encoder


def pytest_configure() -> None:
    """A shell's background jobs ignore INT, and so would the processes that tests start and interrupt.  Property tests
    assert nothing about a clock."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.register_profile("no clock", deadline=None)
    settings.load_profile("no clock")


LONGEST = (
    "test_browser", "test_reduced_demo", "test_kills", "test_interrupts", "test_curate", "test_wheel", "test_adapters",
    "test_ray", "test_ui", "test_evaluate",
)  # fmt: skip
"""Files of minutes, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first: the one that is begun last keeps one of two workers waiting for the other."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def pytest_collection_finish() -> None:
    """What was imported until now is not searched for garbage again and again."""
    gc.freeze()


def pytest_unconfigure() -> None:
    """Libraries that look for what is left when the interpreter ends would find all of it."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def fork_server() -> Iterator[dict[str, str]]:
    """The variables with which programs are forks."""
    with forking() as variables:
        yield variables


@pytest.fixture(scope="module")
def forks(fork_server: dict[str, str]) -> Iterator[None]:
    """Programs that are started are forks (`tests.forks`)."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in fork_server.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Twenty-four rows of the training split, hops 1, 2, 3 in turn."""
    from tests.toy import toy_rows

    return toy_rows(tmp_path_factory.mktemp("clips"), [1, 2, 3] * 8)


@pytest.fixture(scope="session")
def data(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows as the training programs read them."""
    from tests.toy import write_rows

    return write_rows(rows, tmp_path_factory.mktemp("rows") / "rows.parquet")


@pytest.fixture(scope="session")
def base() -> "FutureL1":
    """The tiny base that ships with the project; tests must not change its weights."""
    from training.model.checkpoint import load
    from training.tiny import BASE

    return load(BASE)


@pytest.fixture(scope="session")
def sft_checkpoint(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that knows the format and little else: a few dozen steps on the rows."""
    from tests.toy import sft_recipe
    from training.runtime.programs import Reporter
    from training.sft.__main__ import SftConfig, main
    from training.tiny import BASE

    out = tmp_path_factory.mktemp("sft")
    recipe = sft_recipe(
        max_steps=60,
        global_batch_size=12,
        latent_keep_prob=(0.7, 0.7, 0.7),
        group_by_length=True,
        learning_rate=3e-3,
        adam_beta2=0.98,
    )
    main(SftConfig(out=out, device="cpu", recipe=recipe, data=data, base=BASE), Reporter(out, quiet=True))
    return out / "checkpoint"


@pytest.fixture(scope="session")
def sft_model(sft_checkpoint: Path) -> "FutureL1":
    """The SFT checkpoint, loaded; tests must not change its weights."""
    from training.model.checkpoint import load

    return load(sft_checkpoint)


@pytest.fixture(scope="session")
def encoder(sft_model: "FutureL1") -> "Encoder":
    """The encoder of the SFT checkpoint."""
    assert sft_model.latent_config is not None
    return sft_model.encoder(sft_model.latent_config)
