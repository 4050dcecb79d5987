"""What a benchmark is to the rest of the project: four functions of tables, and nothing about models.

Another source of questions plugs in by implementing `Benchmark` (`seedbench` is the third).  Generation is separate
from scoring: `prompts` is all that the answering program sees, and `graded` and `report` need stored answers
and, where a judge gives the marks, the judge's stored replies, but no model and no torch.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import polars as pl
from pydantic import BaseModel

from training.data.keyframes import key_frame_pool
from training.data.probing import Numbers
from training.data.rejection import RejectedRow, rejecting
from training.data.text import control_in
from training.data.trajectory import MAX_TEXT
from training.data.video import UnreadableVideo, VideoInfo, probe
from training.grading.judge import Judge
from training.storage.hashing import stable_hash

UNREADABLE_ITEM = "unreadable item"


@dataclass(frozen=True)
class StoredAnswers:
    """Stored answers (training.data.prompts.ANSWERS), and how they are to be read.

    control: the control of evaluation.generation.controls under which they were given; judge: None where none was
    named.
    """

    answers: pl.DataFrame
    control: str = "none"
    judge: Judge | None = None


class Benchmark(Protocol):
    """A source of questions, how a model is asked them, and how its answers are marked."""

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> BaseModel:
        """The benchmark's recipe: how items are shown, and how answers are read or judged."""
        ...

    @property
    def judged(self) -> bool:
        """Whether a judge gives the marks."""
        ...

    @property
    def by(self) -> str:
        """The column of items and graded answers by which scores are split."""
        ...

    def items(self, source: Path) -> pl.DataFrame:
        """All items of the folder `source`, also those that cannot be asked: `id` (unique), the column `by`, `problem`
        (null, or why not) and whatever else the others need.

        Raises ValueError or OSError, naming the file, where this is not the benchmark.
        """
        ...

    def prompts(self, table: pl.DataFrame) -> pl.DataFrame:
        """The prompt table (training.data.prompts) of the items that can be asked; ids are the items' ids."""
        ...

    def graded(self, table: pl.DataFrame, told: StoredAnswers) -> pl.DataFrame:
        """One row per answered item: `id`, the column `by`, and its mark or verdict, null where nobody gave one."""
        ...

    def report(self, table: pl.DataFrame, told: StoredAnswers, rows: pl.DataFrame) -> dict[str, Any]:
        """What `graded` says of the whole, as JSON: `benchmark`, `status` (complete, partial, or why there is nothing),
        `reason`, `items`, `answered`, `missing`, `coverage`, and scores with n and interval, null where n is 0."""
        ...


def item_of(blank: Mapping[str, Any], pieces: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One item: `blank`, and over it the pieces as they are read; where one cannot be, `problem` says why.

    Whatever reading raises about an item is that item's problem; an unexpected exception is named with its place.
    """
    item = dict(blank)
    try:
        with rejecting(UNREADABLE_ITEM):
            for piece in pieces:
                item |= piece
    except RejectedRow as rejected:
        item["problem"] = str(rejected) if rejected.reason == UNREADABLE_ITEM else rejected.reason
    return item


def unique_id(name: str, seen: Counter[str]) -> str:
    """An item's id: its name, and a number after it where an item before has that id; `seen` counts them."""
    seen[name] += 1
    while seen[name] > 1:
        name = f"{name}#{seen[name]}"
        seen[name] += 1
    return name


def stored(value: Any) -> str | None:
    """A value as text that a table can hold, of what is recorded whether or not the item can be asked."""
    return None if value is None else str(value)[:MAX_TEXT].encode(errors="replace").decode()


def check_uncontrolled(*texts: str) -> None:
    """Raises RejectedRow for a text that the tokenizer would take for turns, spans or pictures."""
    for text in texts:
        if control := control_in(text):
            raise RejectedRow("control token in text", f"the item carries {control}")


def probed(path: Path, numbers: Numbers = key_frame_pool, kind: str = "video") -> VideoInfo:
    """What an item's clip shows, of which the frames `numbers` will be read.  Raises RejectedRow where that is nothing.

    kind: `video`, or `image` for a picture, which is a clip of one frame.
    """
    try:
        return probe(path, numbers)
    except UnreadableVideo as unreadable:
        raise RejectedRow(f"unreadable {kind}", str(unreadable)) from unreadable


def sampled(table: pl.DataFrame, n: int | None) -> pl.DataFrame:
    """`n` of the items, the same on every machine: those whose id hashes lowest, in their own order.  None: all."""
    if n is None or n >= table.height:
        return table
    hashed = [stable_hash(name) for name in table["id"]]
    chosen = sorted(sorted(range(table.height), key=hashed.__getitem__)[:n])
    return table[chosen]
