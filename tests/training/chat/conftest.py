"""A server that answers in capitals what it is asked; pauses between tries are short, and nobody's keys are used."""

from collections.abc import Iterator

import pytest

from tests.served import Served, served, user_text
from training.chat import client as client_module
from training.chat import connection
from training.chat.endpoint import ENDPOINT_KEYS


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PAUSE", 0.01)
    monkeypatch.setattr(connection, "PREFLIGHT_PAUSE", 0.01)
    for name in ENDPOINT_KEYS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def echo() -> Iterator[Served]:
    with served(lambda request, _: user_text(request).upper()) as server:
        yield server
