"""Devices that are only names, with locks in the test's folder."""

import tempfile
from pathlib import Path

import pytest

DEVICES = ("GPU-a", "GPU-b")


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Two free devices."""
    locks = tmp_path / "locks"
    locks.mkdir()
    monkeypatch.setenv("TMPDIR", str(locks))  # programs
    monkeypatch.setattr(tempfile, "tempdir", str(locks))  # this process
    return DEVICES
