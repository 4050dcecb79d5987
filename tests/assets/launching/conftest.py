"""Devices that are only names, whose locks are in a folder of the test's own."""

import tempfile
from pathlib import Path

import pytest

DEVICES = ("GPU-a", "GPU-b")


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Two devices that no program has yet."""
    locks = tmp_path / "locks"
    locks.mkdir()
    monkeypatch.setenv("TMPDIR", str(locks))  # programs
    monkeypatch.setattr(tempfile, "tempdir", str(locks))  # this process
    return DEVICES
