"""`future-l1 estimate`: what curation costs, and what that rests on."""

from functools import partial
from pathlib import Path

import pytest

from tests.invoke import invoke


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUTURE_L1_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FUTURE_L1_PROFILE", raising=False)


run = partial(invoke, "estimate")


def test_assumptions_stand_below_the_cost_and_can_be_stated() -> None:
    ran = run("--rows", "1e6", "--answers-per-second", "100", "--gpus", "4")
    assert ran.exit_code == 0, ran.output
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in ran.output.splitlines()]
    wanted = (["answers", "16 M"], ["hours on 4 GPUs", "11.1"], ["answers per second", "100", "stated"])
    assert all(row in rows for row in wanted), ran.output


def test_what_nothing_was_measured_on_is_an_error() -> None:
    ran = run("--rows", "1e6", "--measured")
    assert ran.exit_code == 1 and "no shard is answered and scored in" in ran.output
