"""A file that is written stays what it was until it is whole again."""

from pathlib import Path

import pytest

from training.storage.files import atomic_write


def test_a_file_changes_only_when_it_is_written_in_full(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as fresh:
        fresh.write_text("half of a long file")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    with atomic_write(path) as fresh:
        fresh.write_text("new")
        assert path.read_text() == "old"
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"report.json": "new"}
