"""A session of the SFT checkpoint, and an item whose answer has spans."""

from collections.abc import Callable
from typing import Any

import pytest

from evaluation.explorer.session import Session
from evaluation.explorer.state import State, read_edits
from tests.evaluation.explorer.toy_session import item_with_spans, toy_session
from training.model.checkpoint import FutureL1


@pytest.fixture(scope="module")
def session(sft_model: FutureL1, tmp_path_factory: pytest.TempPathFactory) -> Session:
    return toy_session(sft_model, tmp_path_factory.mktemp("explorer"))


@pytest.fixture(scope="module")
def item(session: Session) -> str:
    return item_with_spans(session)


@pytest.fixture
def show(session: Session, item: str) -> Callable[[str], dict[str, Any]]:
    """The events of the item after edits, by name (the last of each, and `blocks` all)."""

    def run(edits: str = "") -> dict[str, Any]:
        events: list[dict[str, Any]] = []
        session.show(State(item, read_edits(edits)), events.append)
        return {event["event"]: event for event in events} | {
            "all": [event for event in events if event["event"] == "blocks"]
        }

    return run
