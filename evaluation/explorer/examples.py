"""What the explorer answers: items of benchmarks, and clips of the user's own."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from evaluation.benchmarks.benchmark import Benchmark
from evaluation.benchmarks.choice import MultipleChoice
from evaluation.benchmarks.options import LETTERS
from training.data.dialogue import user_pieces
from training.data.keyframes import KEY_FRAMES, key_frame_number
from training.data.parts import Part, frame, text
from training.data.probing import VideoInfo
from training.data.trajectory import marked
from training.grading.parsers import ParserName, normalised, options_of, parse
from training.storage.parquet import scan_parquet

MAX_ITEMS = 1000
"""Items of a benchmark that can be chosen, the first ones."""
LENDERS = 3
"""Items that are tried for latents to lend."""
TITLE = 100
"""Characters of a question in the list."""
_FRAMES = re.compile(r"(?:frame_\d{1,3}\s{0,2})?<image>")
"""The places of frames in a question, with their labels."""


@dataclass(frozen=True)
class Clip:
    """A clip that was probed, and the numbers of its true future key frames in order."""

    path: Path
    frame_count: int
    reader: str
    future: tuple[int, ...] = ()


@dataclass(frozen=True)
class Example:
    """A question with the parts of its prompt.

    key: group and id, as links name it; prompt_id: the id by which programs seed the answer.  options: letter to text,
    maybe none; answer: the right one, a letter or a text, if it is there; parser: the benchmark's, if it has one.
    clip: where more of its frames are; clip_name: as the item has it; future_images: its true future frames, encoded.
    """

    key: str
    prompt_id: str
    title: str
    content: list[Part]
    options: Mapping[str, str] = field(default_factory=dict)
    answer: str | None = None
    parser: ParserName | None = None
    clip_name: str = ""
    clip: Clip | None = None
    future_images: Sequence[bytes] = ()

    @property
    def name(self) -> str:
        """The item's id, or the clip's name."""
        return self.prompt_id if self.prompt_id != self.key else self.title

    @property
    def question(self) -> str:
        """The texts of the prompt."""
        return "\n".join(part["text"] for part in self.content if part["type"] == "text")

    @property
    def right_letter(self) -> str | None:
        """The letter of the right option, if there are options and a right answer."""
        texts = {normalised(option): letter for letter, option in self.options.items()}
        return self.answer if self.answer in self.options else texts.get(normalised(self.answer or ""))

    def choice(self, answer: str) -> str | None:
        """The letter that an answer chooses, as the benchmark's parser reads it; without one, as any option's text or
        letter."""
        parsers: tuple[ParserName, ...] = (self.parser,) if self.parser else ("option_text", "strict")
        letters = (parse(parser, answer, self.options).letter for parser in parsers)
        return next((letter for letter in letters if letter), None) if self.options else None

    @property
    def future_frames(self) -> int:
        """The number of true future frames."""
        return len(self.future_images) or (len(self.clip.future) if self.clip else 0)


@dataclass(frozen=True)
class Group:
    """A benchmark and the table of its items; those with a problem are left out."""

    benchmark: Benchmark
    table: Path

    @property
    def name(self) -> str:
        return self.benchmark.name

    @cached_property
    def titles(self) -> dict[str, str]:
        """The titles of the first MAX_ITEMS examples by their key."""
        rows = self._usable.select("id", "question").head(MAX_ITEMS).collect()
        return {f"{self.name}/{name}": _title(name, question) for name, question in rows.iter_rows()}

    def example(self, key: str) -> Example:
        """Raises ValueError for a key that the items do not have."""
        name = key.removeprefix(f"{self.name}/")
        rows = self._usable.filter(pl.col("id") == name).collect()
        if rows.is_empty():
            raise ValueError(f"{self.name} has no usable item {name[:80]!r} here: choose another")
        return self._example(rows.row(0, named=True))

    def after(self, key: str) -> Iterator[Example]:
        """The LENDERS items after this one, the first ones after the last: the order in which they lend latents."""
        keys = list(self.titles)
        at = keys.index(key) if key in keys else -1
        return map(self.example, (keys[at + 1 :] + keys[: max(at, 0)])[:LENDERS])

    @property
    def _usable(self) -> pl.LazyFrame:
        return scan_parquet(self.table).filter(pl.col("problem").is_null())

    def _example(self, row: Mapping[str, Any]) -> Example:
        content = self.benchmark.content(row)
        listed = dict(zip(LETTERS, row.get("options") or (), strict=False))
        options = listed or options_of(row["question"])
        clip = Clip(Path(row["path"]), row["frame_count"], row["reader"]) if row.get("path") else None
        parser = self.benchmark.settings.parser if isinstance(self.benchmark, MultipleChoice) else None
        return Example(
            f"{self.name}/{row['id']}", row["id"], _title(row["id"], row["question"]), content, options, row["answer"],
            parser, row.get("video") or f"item {row['id']}", clip, row.get("reasoning_images") or (),
        )  # fmt: skip


def _title(name: str, question: str) -> str:
    return f"{name}: {' '.join(_FRAMES.sub(' ', question).split())}"[:TITLE]


def clip_example(key: str, name: str, path: Path, info: VideoInfo, frames: Sequence[int], question: str) -> Example:
    """A question about key frames (1 to 8) of a clip of one's own; what comes after them is its true future.

    Raises ValueError for key frames that are none, and for a question that cannot be rendered.
    """
    if not question.strip() or not frames:
        raise ValueError("a clip needs a question, and the key frames (1 to 8) that the model observes, as 1,3")
    numbers = [key_frame_number(info.frames, index) for index in frames]
    pieces = user_pieces(marked(question, len(frames)), len(frames))
    content = [text(p) if isinstance(p, str) else frame(path, numbers[p.index], reader=info.reader) for p in pieces]
    later = (key_frame_number(info.frames, index) for index in range(max(frames) + 1, KEY_FRAMES + 1))
    clip = Clip(path, info.frames, info.reader, tuple(dict.fromkeys(n for n in later if n > max(numbers))))
    return Example(key, name, name, content, options_of(question), clip=clip)
