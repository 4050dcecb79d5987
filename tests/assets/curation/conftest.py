"""Rows that several tests of curation share."""

import polars as pl
import pytest

from tests.assets.curation.scored_rows import rows_of, trajectory


@pytest.fixture
def rows() -> pl.DataFrame:
    return rows_of(
        trajectory(0),
        trajectory(
            1, question="frame_1\n<image>\nWhat happens?", answer="it falls", future=[2, 3], reasoning=["a", "b", ""]
        ),
        trajectory(2, answer="blue", category="camera"),
    )
