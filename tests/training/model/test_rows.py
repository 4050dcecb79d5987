"""Rows become prompts of the frames that they name: key frames, or frame numbers of their own."""

from pathlib import Path
from typing import Any

import pytest

from training.data.keyframes import key_frame_number
from training.model.encoding import Encoder
from training.model.rows import RowReader, Rows
from training.model.verify import skipped_ids


def test_a_row_may_name_frames_by_their_numbers(encoder: Encoder, rows: list[dict[str, Any]]) -> None:
    reader, row = RowReader(encoder, keep=False), rows[0]
    indices = [1, 2, 3]
    numbers = [key_frame_number(row["frame_count"], index) for index in indices]
    markers = "".join(f"frame_{number}\n<image>\n" for number in indices)
    encoded = {**row, "question": f"{markers}What next?", "row_id": "by index", "observed": indices}
    by_number = {**encoded, "row_id": "by number", "observed": [], "future": [], "frames": numbers}
    one, other = reader.prompt(encoded), reader.prompt(by_number)
    assert one.ids == other.ids
    assert len(other.observed) == 3
    shifted = reader.prompt({**by_number, "row_id": "shifted", "frames": numbers[::-1]})
    assert [p.key for p in shifted.observed] != [p.key for p in other.observed] == [p.key for p in one.observed]


def test_a_dialogue_may_observe_frames_by_their_numbers(encoder: Encoder, rows: list[dict[str, Any]]) -> None:
    reader, row = RowReader(encoder, keep=False), rows[1]
    numbers = [key_frame_number(row["frame_count"], index) for index in row["observed"]]
    one, other = (reader.dialogue(r, spans=True) for r in (row, {**row, "observed": [], "frames": numbers}))
    assert one.ids == other.ids
    for kind in ("observed", "future"):
        assert [p.key for p in getattr(other, kind)] == [p.key for p in getattr(one, kind)] != []


def test_each_machine_records_what_it_skipped_and_the_first_gathers_it(
    encoder: Encoder, rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines of a training must not append to one file of a network file system."""
    skipped, broken = tmp_path / "skipped.jsonl", tmp_path / "no.mp4"
    for machine in ("0", "1"):
        monkeypatch.setenv("GROUP_RANK", machine)
        unreadable = {**rows[0], "row_id": f"of machine {machine}", "path": str(broken)}
        Rows([unreadable, rows[1]], RowReader(encoder, keep=False), skipped).prompt(0)
    assert {file.name for file in tmp_path.iterdir()} == {"skipped.jsonl", "skipped.1.jsonl"}
    assert skipped_ids(skipped) == {"of machine 0", "of machine 1"}
    assert [file.name for file in tmp_path.iterdir()] == ["skipped.jsonl"]
    assert skipped_ids(skipped) == {"of machine 0", "of machine 1"}
