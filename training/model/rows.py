"""Trajectory rows to encoded dialogues: the one place where training reads clips."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.data.dialogue import Slot, assistant_pieces, user_pieces
from training.data.keyframes import key_frame_number
from training.data.row_clips import with_clip
from training.data.video import UnreadableVideo, read_frames
from training.model.encoding import Encoded, Encoder
from training.storage.files import AppendLog, on_this_machine

SKIPPED = "skipped.jsonl"
"""The file of rows that a program could not use: {"row_id", "reason"} a line; several processes may repeat a row."""

Row = Mapping[str, Any]
"""TrajectoryTable's columns with path, frame_count and reader, or what `with_clip` makes these of; `frames` are numbers
of observed frames that are no key frames."""


class RowReader:
    """Reads and encodes rows; with `keep`, each row's clip is decoded once and its dialogue stays in memory."""

    def __init__(self, encoder: Encoder, keep: bool) -> None:
        self.encoder, self.keep = encoder, keep
        self._kept: dict[tuple[str, str], Encoded] = {}
        self._probed: dict[str, Row] = {}

    def dialogue(self, row: Row, spans: bool) -> Encoded:
        """The whole dialogue with labels; without `spans` the same text and no latents."""
        return self._once(row, f"dialogue {spans}", lambda: self._dialogue(row, spans))

    def prompt(self, row: Row) -> Encoded:
        """The observed frames and the question, ready to be answered."""
        return self._once(row, "prompt", lambda: self._prompt(row))

    def _once(self, row: Row, what: str, build: Callable[[], Encoded]) -> Encoded:
        key = (row["row_id"], what)
        if key in self._kept:
            return self._kept[key]
        encoded = build()
        if self.keep:
            self._kept[key] = encoded
        return encoded

    def _dialogue(self, row: Row, spans: bool) -> Encoded:
        user = user_pieces(row["question"], len(row.get("frames") or row["observed"]))
        assistant = assistant_pieces(row["reasoning"], row["answer"], spans)
        slots = [p for p in (*user, *assistant) if isinstance(p, Slot)]
        return self.encoder.dialogue(user, assistant, self._frames(row, slots))

    def _prompt(self, row: Row) -> Encoded:
        user = user_pieces(row["question"], len(row.get("frames") or row["observed"]))
        frames = self._frames(row, [p for p in user if isinstance(p, Slot)])
        low, high = self.encoder.limits.observed
        patches = {slot: self.encoder.patch(frame, low, high) for slot, frame in frames.items()}
        return self.encoder.prompt([patches[p] if isinstance(p, Slot) else p for p in user])

    def _frames(self, row: Row, slots: list[Slot]) -> dict[Slot, np.ndarray]:
        """The frames at the slots, in one read of the clip."""
        row = self._with_clip(row)
        numbers = [
            row["frames"][slot.index]
            if slot.kind == "observed" and row.get("frames")
            else key_frame_number(row["frame_count"], row[slot.kind][slot.index])
            for slot in slots
        ]
        return dict(zip(slots, read_frames(row["path"], numbers, row["reader"]), strict=True))

    def _with_clip(self, row: Row) -> Row:
        """The row with its clip, which is probed once."""
        if row["frame_count"] is None and row["row_id"] not in self._probed:
            self._probed[row["row_id"]] = with_clip(row)
        return self._probed.get(row["row_id"], row)


class Rows:
    """Rows by number.  A row that cannot be read or rendered is recorded in `skipped`; the next readable row replaces
    it.

    So a batch is never empty and never short, and the replacement depends on the data alone.
    """

    def __init__(self, rows: Sequence[Row], reader: RowReader, skipped: Path) -> None:
        self.rows, self.reader = rows, reader
        self._log = AppendLog(on_this_machine(skipped))
        self._unusable: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def dialogue(self, number: int, spans: bool) -> Encoded:
        """RowReader.dialogue of the row, or of its replacement."""
        return self._usable(number, lambda row: self.reader.dialogue(row, spans))[1]

    def prompt(self, number: int) -> tuple[Row, Encoded]:
        """The row, or its replacement, and its RowReader.prompt."""
        return self._usable(number, self.reader.prompt)

    def _usable(self, number: int, read: Callable[[Row], Encoded]) -> tuple[Row, Encoded]:
        """Raises ValueError when no row can be used."""
        for step in range(len(self.rows)):
            row = self.rows[(number + step) % len(self.rows)]
            if row["row_id"] in self._unusable:
                continue
            try:
                return row, read(row)
            except (UnreadableVideo, ValueError, OSError) as error:
                self._unusable[row["row_id"]] = str(error)
                self._log.append({"row_id": row["row_id"], "reason": str(error)})
        row_id, reason = next(iter(self._unusable.items()))
        raise ValueError(f"none of the {len(self.rows)} rows can be used; the first, {row_id}: {reason}")
