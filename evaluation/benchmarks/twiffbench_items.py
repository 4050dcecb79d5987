"""TwiFF-Bench's items: how they are read, how a model is prompted, and what the judge sees of an answer."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from evaluation.benchmarks.items import probe_clip, read_item
from evaluation.benchmarks.judge_messages import (
    JudgedSettings,
    Marks,
    image_part,
    split_response,
    text_part,
    without_image_markers,
)
from training.data.clip_names import resolve_clip
from training.data.dialogue import Slot, user_pieces
from training.data.images import jpeg, open_image
from training.data.json_rows import most_unpacked
from training.data.keyframes import key_frame_number
from training.data.parquet_rows import parquet_rows
from training.data.parts import Part, image, text
from training.data.rejection import RejectedRow
from training.data.row_fields import bounded_text, text_of
from training.data.trajectory import IMAGE, Trajectory, parse_row
from training.data.video import read_frames
from training.grading.judge import Judge

IMAGES = ("question_images", "reasoning_images")
MAX_ITEM_BYTES = 2**28
"""Of a row with its images."""


class TwiffBenchSettings(JudgedSettings):
    """The settings of TwiFF-Bench: the layout of an item's prompt, and of the judge's."""

    layout: Literal["interleaved", "images_first"] = "images_first"
    """`interleaved`: each image at its marker, as SFT rendered questions; `images_first`: the release's, images, then
    the preamble, then the question."""
    preamble: str = ""
    """Text between the images and the question of `images_first`."""
    frames: Literal["embedded", "clip"] = "embedded"
    """The source of an item's frames: its row, or its clip's key frames, for tables without images."""
    clips: str = "clips"
    """The folder of clips in the benchmark's folder."""
    ground_truth: Literal["short", "whole"] = "short"
    """What the judge compares with: the short answer, or the source's whole text."""


@dataclass(frozen=True)
class TwiffBenchItems:
    settings: TwiffBenchSettings
    name = "twiffbench"
    split_column = "category"
    marks: ClassVar[tuple[str, ...]] = ("cot", "answer")

    def files(self, source: Path) -> list[Path]:
        """The shards of the items.  Raises ValueError where the folder `source` has none."""
        shards = sorted(source.glob("test-*.parquet"))
        if not shards:
            raise ValueError(f"no test-*.parquet in {source}: is that TwiFF-Bench's folder?")
        return shards

    def rows(self, source: Path) -> Iterator[dict[str, Any]]:
        """The items of all `test-*.parquet` shards in `source`; ids are row numbers over the shards in order."""
        clips = source / self.settings.clips if self.settings.frames == "clip" else None
        shards = self.files(source)
        read = partial(parquet_rows, columns=lambda table: table.names, longest=MAX_ITEM_BYTES)
        records = (record for shard in shards for _, record in read(shard))
        limit = left = most_unpacked(sum(shard.stat().st_size for shard in shards)) if clips is None else math.inf
        for n, record in enumerate(records):
            item = {"id": f"{n:05d}"} | read_item({}, _pieces(record, n, clips))
            left -= sum(len(image) for name in IMAGES for image in item.get(name) or [])
            if left < 0:
                raise ValueError(f"{source}: the images unpack to more than {limit} bytes, far more than images would")
            yield item

    def content(self, row: Mapping[str, Any]) -> list[Part]:
        """The prompt of an item."""
        images = [image(data) for data in row["question_images"]]
        if self.settings.layout == "images_first":
            texts = (self.settings.preamble, without_image_markers(row["question"]))
            return [*images, text("\n\n".join(piece for piece in texts if piece))]
        pieces = user_pieces(row["question"], len(images))
        return [images[piece.index] if isinstance(piece, Slot) else text(piece) for piece in pieces]

    def payload(self, row: Mapping[str, Any], judge: Judge) -> Iterator[dict[str, Any]]:
        """The user message of reference/evaluation.md 2.4, in order."""
        chain, answer = split_response(row["text"])
        yield text_part("Question: ")
        yield from self._with_images(row["question"].split(IMAGE), row["question_images"])
        yield text_part("\nReference Reasoning Chain: ")
        yield from self._with_images(row["reasoning"], row["reasoning_images"])
        yield text_part("\nGround Truth Answer: ")
        yield text_part(row["answer"] if self.settings.ground_truth == "short" else row["whole_answer"])
        yield text_part("\nModel Response Reasoning Chain: ")
        yield text_part(judge.untrusted(chain))
        yield text_part("\nModel Response Answer: ")
        yield text_part(judge.untrusted(answer))

    def ask(self, judge: Judge, payloads: Sequence[list[dict[str, Any]]], judgement: int) -> Sequence[Marks | None]:
        """The marks of each payload in judgement number so many."""
        return judge.scores(payloads, judgement)

    def _with_images(self, texts: list[str], images: list[bytes]) -> Iterator[dict[str, Any]]:
        """Text pieces with an image after each but the last; only the text where the judge sees none."""
        for number, piece in enumerate(texts):
            if piece.strip():
                yield text_part(piece)
            if number < len(images):
                yield image_part(images[number]) if self.settings.judge_sees_images else text_part("\n")


def _pieces(record: Mapping[str, Any] | RejectedRow, number: int, clips: Path | None) -> Iterator[dict[str, Any]]:
    """An item as far as it can be read.  Raises RejectedRow where it can no further.

    An unusable item names its clip, too: nothing may be trained on it.
    """
    if isinstance(record, RejectedRow):
        raise record
    yield {"video": bounded_text(record.get("video"))}
    meta = record.get("meta_data") or {}
    if isinstance(meta, Mapping):  # what else it may be, parse_row says
        yield {name: bounded_text(meta.get(name)) for name in ("start", "end")}
    row = parse_row(record, TwiffBenchItems.name, number)
    question_images, reasoning_images = _embedded(record, row) if clips is None else _key_frames(row, clips)
    yield {
        "category": row.category,
        "question": row.question,
        "reasoning": list(row.reasoning),
        "answer": row.answer,
        "whole_answer": text_of(record, "answer"),
        "question_images": question_images,
        "reasoning_images": reasoning_images,
    }


def _embedded(record: Mapping[str, Any], row: Trajectory) -> list[list[bytes]]:
    """The observed images and the future ones.  Raises RejectedRow where they are not all there, or unreadable."""
    groups: list[list[Any]] = [
        [image["bytes"] if isinstance(image, Mapping) else None for image in record.get(name) or []] for name in IMAGES
    ]
    counts = [len(images) for images in groups]
    if counts != [len(row.observed), len(row.future)] or None in groups[0] + groups[1]:
        raise RejectedRow("embedded images missing", f"{counts} images")
    for data in groups[0] + groups[1]:
        try:
            open_image(data)
        except ValueError as error:
            raise RejectedRow("unreadable image", str(error)) from error
    return groups


def _key_frames(row: Trajectory, clips: Path) -> list[list[bytes]]:
    """The same, read from the row's clip (reference/evaluation.md 3.1).  Raises RejectedRow."""
    path = resolve_clip(row.video, [clips])
    clip = probe_clip(path)
    numbers = [key_frame_number(clip.frames, index) for index in (*row.observed, *row.future)]
    images = [jpeg(pixels) for pixels in read_frames(path, numbers, clip.reader)]
    return [images[: len(row.observed)], images[len(row.observed) :]]
