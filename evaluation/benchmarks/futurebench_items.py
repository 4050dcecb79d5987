"""FutureBench's items: how they are read, and how a model is prompted."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from evaluation.benchmarks.items import probe_clip, read_item
from evaluation.benchmarks.options import LETTERS, ChoiceSettings, check_question, with_options
from training.data.clip_names import resolve_clip
from training.data.json_rows import json_rows
from training.data.parts import Part, frame, text, video
from training.data.rejection import RejectedRow
from training.data.row_fields import bounded_text, text_of, unique_id

FILE = "futurebench.json"
BLANK: dict[str, Any] = {"video": None, "question_type": "None", "question": "", "options": [], "answer": ""}
SPLIT_LABELS = {"hop1": "1 hop", "hop2": "2 hops", "hop3": "3 hops", "hop5": "interpolation"}
SPLITS = tuple(SPLIT_LABELS)
_INLINE = (re.compile(r"\bA\)\s"), re.compile(r"\bD\)\s"))


class FutureBenchSettings(ChoiceSettings):
    """The settings of FutureBench: the layout of an item's prompt, and the parser of its answer.

    The release bounds video frames by 768 * 32 * 32 px from above, and from below like images (reference/evaluation.md
    1.4).
    """

    layout: Literal["keyframes", "video32"] = "video32"
    """`keyframes`: the first observed frame as an image, as SFT rendered questions; `video32`: the paper's layout, the
    observed part as one video before the text."""
    videos: str = "first_part_video"
    """The folder of the observed parts in the benchmark's folder."""
    video_frames: int = 32
    """The most frames of a video."""
    video_tokens: int = 768
    """The most merged tokens of a video's frame pair."""
    prefix: str = ""
    """Text before the question."""
    suffix: str = "Reply with the letter of the one best option only, inside <answer> </answer>."
    """Text after the options."""


@dataclass(frozen=True)
class FutureBenchItems:
    settings: FutureBenchSettings
    name = "futurebench"
    split_column = "question_type"
    splits: ClassVar[tuple[str, ...]] = SPLITS

    def files(self, source: Path) -> list[Path]:
        """The file of the items.  Raises ValueError where the folder `source` has none."""
        if not (source / FILE).is_file():
            raise ValueError(f"no {FILE} in {source}: is that FutureBench's folder?")
        return [source / FILE]

    def rows(self, source: Path) -> Iterator[dict[str, Any]]:
        """The items of `source/futurebench.json`; clips are looked up in the folder of observed parts."""
        ids: Counter[str] = Counter()
        for number, record in json_rows(self.files(source)[0]):
            name = str(number) if isinstance(record, RejectedRow) else str(bounded_text(record.get("id", number)))
            pieces = _pieces(record, self.settings, source / self.settings.videos)
            yield {"id": unique_id(name, ids)} | read_item(BLANK, pieces)

    def content(self, row: Mapping[str, Any]) -> list[Part]:
        """The prompt of an item."""
        question, settings = row["question"], self.settings
        if not all(pattern.search(question) for pattern in _INLINE):
            question = with_options(question, row["options"])
        if settings.layout == "keyframes":
            prompt = "\n".join(piece for piece in (settings.prefix, question, settings.suffix) if piece)
            return [text("frame_1"), frame(row["path"], 0, reader=row["reader"]), text(prompt)]
        numbers = video_frame_numbers(row["frame_count"], settings.video_frames)
        observed = video(row["path"], numbers, row["reader"], settings.video_tokens)
        return [observed, text(f"{settings.prefix}\n{question}\n{settings.suffix}")]


def video_frame_numbers(frame_count: int, max_frames: int = 32) -> list[int]:
    """The release's video frames: an even number of them, at most `max_frames`, evenly spaced over the whole clip
    (reference/evaluation.md 1.4).  Raises ValueError for a clip of one frame.
    """
    n = max(2, 2 * (min(max_frames, frame_count) // 2))
    if frame_count < n:
        raise ValueError(f"a clip of {frame_count} frames cannot be shown as a video of {n}")
    return np.round(np.linspace(0, frame_count - 1, n)).astype(int).tolist()


def frame_numbers(frame_count: int, max_frames: int) -> list[int]:
    """The frames that a layout reads of a clip."""
    return video_frame_numbers(frame_count, max_frames) if frame_count > 1 else [0]


def _pieces(
    record: Mapping[str, Any] | RejectedRow, settings: FutureBenchSettings, videos: Path
) -> Iterator[dict[str, Any]]:
    """An item as far as it can be read.  Raises RejectedRow where it can no further."""
    if isinstance(record, RejectedRow):
        raise record
    yield {
        "video": bounded_text(record.get("video_path")),
        "question_type": str(bounded_text(record.get("question_type"))),
    }
    qa = record.get("qa")
    if not isinstance(qa, Mapping):
        raise RejectedRow("malformed field", f"qa is {type(qa).__name__}, not an object")
    question, answer = text_of(qa, "Question"), text_of(qa, "Answer").strip().upper()
    yield {"question": question, "answer": answer}
    options = _options(qa.get("Options"))
    yield {"options": options}
    check_question(question, options, answer)
    # The name refers to the full video; the observed part has the same name in its own folder.
    path = resolve_clip(text_of(record, "video_path").split("video_dataset/", 1)[-1], [videos])
    clip = probe_clip(path, partial(frame_numbers, max_frames=settings.video_frames))
    if settings.layout == "video32" and clip.frames < 2:
        raise RejectedRow("video of a single frame", str(path))
    yield {"path": str(path), "frame_count": clip.frames, "reader": clip.reader}


def _options(value: Any) -> list[str]:
    """The four options in order.  Raises RejectedRow for another number of them, or what is no text and no number."""
    if not isinstance(value, Mapping):
        raise RejectedRow("not four options", f"Options is {type(value).__name__}, not an object of letters")
    options = {letter: option for letter, option in value.items() if option is not None and option == option}  # no NaN
    if sorted(options) != list(LETTERS):
        raise RejectedRow("not four options", f"found {sorted(options)}")
    numbers = {letter: str(option) for letter, option in options.items() if type(option) in (int, float)}
    return [text_of(options | numbers, letter) for letter in LETTERS]
