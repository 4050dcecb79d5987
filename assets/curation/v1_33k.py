"""The multiple-choice rows of V1-33K, which the paper's FutureBench checkpoint is trained on (reference/paper.md 1.3).

Read from the dataset's own rows (JSON, JSONL or parquet; 4.4): `mc_qa` is one question or a list of them, each like
FutureBench's `qa`; options are a dict, a list, or lines in the question; the hop is the question's or the row's, and
questions of one and two hops are used.  The observed part of a video becomes evenly spaced frames, one `<image>` marker
each.  What cannot be read, or is in FutureBench, is quarantined with a reason.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dataframely as dy
import numpy as np
import polars as pl

from assets.curation.disjoint import question_words, source_names
from assets.curation.scored import hash_order
from training.data.clip_names import resolve_clip
from training.data.dialogue import control_in
from training.data.json_rows import json_rows
from training.data.parquet_rows import parquet_rows
from training.data.rejection import RejectedRow, rejecting
from training.data.row_fields import MAX_TEXT, text_of
from training.data.trajectory import IMAGE
from training.data.video import UnreadableVideo, VideoInfo, probe
from training.grading.grade import reference_letter
from training.grading.parsers import options_of

HOPS = (1, 2)
FRAMES = 16
LETTERS = "ABCD"

_HOP = re.compile(r"(?i)\s*(?:(\d)[\s_-]*hops?|hops?[\s_-]*(\d)|(\d))\s*")
_OPTION = re.compile(r"\(?([A-Da-d])[.):]\s*(\S.*)", re.DOTALL)
_INLINE = re.compile(r"(?:^|\s)\(?([A-D])[.)]\s+")


class ChoiceTable(dy.Schema):
    """One multiple-choice question about the observed part of a video, in the columns that RL reads.

    `frames` are frame numbers of the clip, one for each `<image>` marker; there is nothing to imagine in it.
    """

    row_id = dy.String(primary_key=True, regex="^[0-9a-f]{16}$", description="hash of the row's content")
    source = dy.String(min_length=1, description="file that the row was read from")
    video = dy.String(min_length=1, description="name of the clip")
    question = dy.String(min_length=1, description="question and options, with a marker for each observed frame")
    reasoning = dy.List(dy.String(), description="empty: V1-33K has no reasoning")
    answer = dy.String(min_length=1, description="letter and text of the correct option")
    observed = dy.List(dy.Int64(), description="empty: frames are numbers here, not key frames")
    future = dy.List(dy.Int64(), description="empty: there are no future frames")
    frames = dy.List(dy.Int64(min=0), min_length=1, description="frame numbers of the observed frames")
    hop = dy.Int64(is_in=HOPS, description="number of hops of the question")
    path = dy.String(min_length=1, description="path of the clip's file")
    frame_count = dy.Int64(min=1, description="number of displayed frames of the clip")
    reader = dy.String(
        regex="^(seek|sequential)$", description="way its frames are read: by seeking, or sequentially from the start"
    )

    @dy.rule()
    def one_marker_for_each_frame(cls) -> pl.Expr:
        return pl.col("question").str.count_matches(IMAGE, literal=True) == pl.col("frames").list.len()


@dataclass(frozen=True)
class Choices:
    """`rows` (ChoiceTable); `quarantine` (source, row, reason, detail); `report` counts."""

    rows: pl.DataFrame
    quarantine: pl.DataFrame
    report: dict[str, Any]


def choices(
    files: Sequence[Path], videos: Sequence[Path], rows: int, seed: int, futurebench: pl.DataFrame, frames: int = FRAMES
) -> Choices:
    """`rows` questions sampled with a seed, fewer if there are fewer.

    `videos` are the folders of observed parts (`first_part_video`), `futurebench` the benchmark's item table.  A video
    is opened only when one of its questions is sampled.
    """
    benchmark_videos = {name for video in futurebench["video"].drop_nulls() for name in source_names(video)}
    benchmark_questions = {question_words(question) for question in futurebench["question"].drop_nulls()}
    usable: dict[str, dict[str, Any]] = {}
    rejected: list[tuple[str, int, str, str | None]] = []
    read = 0
    for source, number, record in _records(files):
        for item in _questions(record):
            read += 1
            try:
                with rejecting("unreadable row"):
                    row = _row(item, record, source)
                    if source_names(row["video"]) & benchmark_videos:
                        raise RejectedRow("video of FutureBench", row["video"])
                    if question_words(row["question"]) in benchmark_questions:
                        raise RejectedRow("question of FutureBench", row["question"][:80])
                    if row["row_id"] in usable:
                        raise RejectedRow("repeated row", f"the same as row {usable[row['row_id']]['number']}")
                    usable[row["row_id"]] = row | {"number": number}
            except RejectedRow as reject:
                rejected.append((source, number, reject.reason, reject.detail))
    chosen: list[dict[str, Any]] = []
    opened: dict[str, VideoInfo] = {}
    ids = pl.Series("row_id", sorted(usable), pl.String)
    for row_id in ids.to_frame().with_columns(hash_order(ids, seed)).sort("order")["row_id"]:
        if len(chosen) == rows:
            break
        row = usable[row_id]
        try:
            with rejecting("unreadable video"):
                chosen.append(_with_frames(row, videos, opened, frames))
        except RejectedRow as reject:
            rejected.append((row["source"], row["number"], reject.reason, reject.detail))
    schema = {"source": pl.String, "row": pl.Int64, "reason": pl.String, "detail": pl.String}
    quarantine = pl.DataFrame(rejected, schema=schema, orient="row")
    table = ChoiceTable.validate(pl.DataFrame(chosen, schema=ChoiceTable.create_empty().schema))
    report = {
        "read": read,
        "usable": len(usable),
        "wanted": rows,
        "rows": table.height,
        "short": max(0, rows - table.height),
        "quarantined": quarantine.height,
        "quarantined_by_reason": dict(quarantine["reason"].value_counts(sort=True).iter_rows()),
        "by_hop": {str(hop): n for hop, n in sorted(table["hop"].value_counts().iter_rows())},
        "videos": table["video"].n_unique(),
    }
    return Choices(table, quarantine, report)


def frame_numbers(frame_count: int, frames: int) -> list[int]:
    """Evenly spaced over the whole clip, first and last included; every frame once where there are fewer."""
    return np.unique(np.round(np.linspace(0, frame_count - 1, min(frames, frame_count))).astype(int)).tolist()


def _records(files: Sequence[Path]) -> Iterator[tuple[str, int, dict[str, Any] | RejectedRow]]:
    """(file, row number from 1, record or why it is none).  Raises ValueError for a file that is corrupt."""
    for path in files:
        records = parquet_rows(path, lambda table: table.names) if path.suffix == ".parquet" else json_rows(path)
        yield from ((path.name, number + 1, record) for number, record in records)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _questions(record: Any) -> list[Any]:
    """What `mc_qa` holds, as a list; a record without it is one unreadable question."""
    if not isinstance(record, Mapping):
        return [record]
    held = record.get("mc_qa")
    held = _parsed(held) if isinstance(held, str) else held
    return list(held) if isinstance(held, list) and held else [held]


def _row(item: Any, record: Any, source: str) -> dict[str, Any]:
    if isinstance(record, RejectedRow):
        raise record
    if not isinstance(item, Mapping):
        raise RejectedRow("no multiple-choice question", f"mc_qa holds {item!r:.60}")
    qa = {str(name).lower(): value for name, value in item.items()}
    question, answer = text_of(qa, "question"), qa.get("answer")
    if not question.strip():
        raise RejectedRow("empty question", f"found {question!r:.60}")
    hop = _hop(qa, record)
    if hop not in HOPS:
        raise RejectedRow("not 1 or 2 hops" if hop else "hop is missing", f"found {hop}")
    stem, options = _options(question.strip(), qa.get("options"))
    text = stem + "".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    if len(text) > MAX_TEXT:
        raise RejectedRow("text too long", f"question and options have {len(text)} characters")
    if control := control_in(text) or (IMAGE if IMAGE in text else None):
        raise RejectedRow("control token in text", control)
    if len(options_of(text)) != len(options):
        raise RejectedRow("options are not distinct", text[:80])
    letter = _reference(answer, options_of(text))
    video = record.get("video_path")
    if not isinstance(video, str) or not video.strip() or "\0" in video:
        raise RejectedRow("malformed field", f"video_path is {video!r:.60}")
    video = video.split("video_dataset/", 1)[-1].lstrip("/")
    identity = json.dumps([video, text, letter], ensure_ascii=False)
    row_id = hashlib.sha256(identity.encode("utf-8", "replace")).hexdigest()[:16]
    return {"row_id": row_id, "source": source, "video": video, "question": text, "answer": letter, "hop": hop}


def _hop(qa: Mapping[str, Any], record: Mapping[str, Any]) -> int | None:
    for holder in (qa, record):
        for name in ("hop", "hops", "question_type"):
            value = holder.get(name)
            if value is not None and (match := _HOP.fullmatch(str(value))):
                return int(next(group for group in match.groups() if group))
    return None


def _options(question: str, held: Any) -> tuple[str, list[str]]:
    """The question without its options, and the options' texts in the order of their letters."""
    inline = list(_INLINE.finditer(question))
    if isinstance(held, str):
        held = _parsed(held)
    if isinstance(held, Mapping):
        by_letter = {str(letter).strip().upper(): text for letter, text in held.items() if text is not None}
        texts = [by_letter.get(letter) for letter in LETTERS[: len(by_letter)]]
    elif isinstance(held, list):
        lettered = [_OPTION.fullmatch(text.strip()) if isinstance(text, str) else None for text in held]
        texts = [match[2] if match else text for match, text in zip(lettered, held, strict=True)]
    else:
        if [letter[1] for letter in inline] != list(LETTERS[: len(inline)]):
            raise RejectedRow("malformed options", question[-80:])
        ends = [*(letter.start() for letter in inline[1:]), len(question)]
        texts = [question[letter.end() : end] for letter, end in zip(inline, ends, strict=False)]
    options = [" ".join(text.split()) for text in texts if isinstance(text, str)]
    if not 2 <= len(options) <= len(LETTERS) or len(options) != len(texts) or not all(options):
        raise RejectedRow("malformed options", f"found {held!r:.80}")
    stem = question[: inline[0].start()].strip() if len(inline) == len(options) else question
    if not stem:
        raise RejectedRow("empty question", "options and nothing else")
    return stem, options


def _reference(answer: Any, options: Mapping[str, str]) -> str:
    """The letter that the reference names, by itself, with its option's text, or by that text."""
    if not isinstance(answer, str) or not answer.strip():
        raise RejectedRow("empty answer", f"found {answer!r:.60}")
    lettered = _OPTION.fullmatch(answer.strip())
    letter = reference_letter(answer.strip(), options) or (
        reference_letter(lettered[1].upper(), options) if lettered else None
    )
    if letter is None:
        raise RejectedRow("answer is none of the options", answer[:80])
    return letter


def _with_frames(
    row: Mapping[str, Any], videos: Sequence[Path], opened: dict[str, VideoInfo], frames: int
) -> dict[str, Any]:
    path = resolve_clip(row["video"], videos)
    if str(path) not in opened:
        try:
            opened[str(path)] = probe(path, lambda count: frame_numbers(count, frames))
        except UnreadableVideo as unreadable:
            raise RejectedRow("unreadable video", f"{row['video']}: {unreadable}") from unreadable
    clip = opened[str(path)]
    numbers = frame_numbers(clip.frames, frames)
    markers = "".join(f"frame_{k}\n{IMAGE}\n" for k in range(1, len(numbers) + 1))
    return {name: row[name] for name in ("row_id", "source", "video", "answer", "hop")} | {
        "question": markers + row["question"],
        "reasoning": [""],
        "observed": [],
        "future": [],
        "frames": numbers,
        "path": str(path),
        "frame_count": clip.frames,
        "reader": clip.reader,
    }
