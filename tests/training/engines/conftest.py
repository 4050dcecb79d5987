"""What the tests of vLLM's two runners ask."""

from typing import Any

import pytest

from tests.training.engines.simulated import begun
from training.model.encoding import Encoded, Encoder


@pytest.fixture(scope="module")
def prompts(encoder: Encoder, rows: list[dict[str, Any]]) -> list[Encoded]:
    return begun(encoder, rows)
