"""`future-l1 predict --out page.html`: one answer on a page of its own, with what its latent spans show of the clip."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from evaluation.generation.segments import Segment, segments
from evaluation.latents.clip_retrieval import ClipRetrieval, NearestFrame, SpanRetrieval, latents_of, retrieve
from training.data.records import Record, read_prompt
from training.data.video import UnreadableVideo, frame_rate, read_frames
from training.model.checkpoint import FutureL1

HERE = Path(__file__).parent
THUMBNAIL = 320


@dataclass(frozen=True)
class Picture:
    """A picture with its caption; `unobserved`: a frame after the last one in the prompt."""

    data: str
    caption: str
    note: str = ""
    unobserved: bool = False


@dataclass(frozen=True)
class Card:
    """A segment of the answer; a span has pictures."""

    segment: Segment
    nearest: Sequence[Picture] = ()
    painting: Picture | None = None


def answer_page(
    bundle: FutureL1,
    value: Mapping[str, Any],
    answer: Mapping[str, Any],
    prediction: Mapping[str, Any],
    checkpoint: str,
) -> str:
    """A self-contained page: no script, no external resources, and whatever the texts hold is only text.

    value: the prompt (training.data.records.read_prompt); answer: its entry in `prediction`, the result of `predict`.
    Raises ValueError where the clip cannot be read any more.
    """
    record = read_prompt(value, 0, Path())
    has_clip = bool(record.row["path"])
    try:
        rate = frame_rate(record.row["path"]) if has_clip else 0.0
    except UnreadableVideo:
        rate = 0.0
    spans = latents_of(dict(answer))
    retrieval = retrieve(bundle, record, spans) if has_clip and any(len(latents) for latents in spans) else None
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((HERE / "prediction.html.j2").read_text(encoding="utf-8"))
    return template.render(
        question=value["question"], checkpoint=checkpoint, clip=Path(record.row["path"]).name,
        observed=list(_observed(record, rate)) if has_clip else [], cards=list(_cards(answer, retrieval, record, rate)),
        retrieval=retrieval, finished=answer["finished"], cap=prediction["cap"], cap_origin=prediction["cap_origin"],
    )  # fmt: skip


def _observed(record: Record, rate: float) -> Iterator[Picture]:
    numbers = record.frame_numbers("observed")
    for number, frame in zip(numbers, read_frames(record.row["path"], numbers, record.row["reader"]), strict=True):
        yield Picture(_data(frame), _when(number, rate))


def _cards(answer: Mapping[str, Any], retrieval: ClipRetrieval | None, record: Record, rate: float) -> Iterator[Card]:
    """The segments of the answer in order."""
    spans = iter(retrieval.spans if retrieval else ())
    last = max(record.frame_numbers("observed"), default=0)
    for segment in segments(answer["text"]):
        yield _card(segment, next(spans, None) if segment.kind == "span" else None, last, rate)


def _card(segment: Segment, span: SpanRetrieval | None, last: int, rate: float) -> Card:
    if span is None:
        return Card(segment)
    nearest = [Picture(_data(n.thumbnail), _when(n.number, rate), _distance(n), n.number > last) for n in span.nearest]
    painting = None if span.painting is None else Picture(_data(span.painting), "the latents, painted")
    return Card(segment, nearest, painting)


def _distance(frame: NearestFrame) -> str:
    distance = frame.relative_distance
    return "" if distance is None else f"distance {distance:.2f}, the last observed frame: 1"


def _when(number: int, rate: float) -> str:
    return f"frame {number}" + (f", {number / rate:.1f} s" if rate else "")


def _data(pixels: np.ndarray) -> str:
    """A PNG of at most THUMBNAIL px as a data URL."""
    picture, buffer = Image.fromarray(pixels), io.BytesIO()
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    picture.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
