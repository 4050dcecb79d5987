"""Rows become prompts of the frames that they name: key frames, or frame numbers of their own."""

from typing import Any

from training.data.keyframes import key_frame_number
from training.model.encoding import Encoder
from training.model.rows import RowReader


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
