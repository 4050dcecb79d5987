"""Future-frame retrieval: one pass of a vision tower over a benchmark's images scores all latent spans, fits the
read-out, and keeps the items to picture."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from evaluation.benchmarks.benchmark import sample_in_turns
from evaluation.latents.frame_pool import Frame, FrameEncoder, FramePool, Item, ItemEntry, frame_cache, read_items
from evaluation.latents.geometry import spans_of
from evaluation.latents.readout import Readout, ReadoutFit
from evaluation.latents.retrieval_report import BEYOND, EMPTY, NO_LATENTS, SpanScore, distances, score_span
from training.storage.hashing import stable_hash
from training.storage.parquet import scan_parquet

UNDECODABLE, UNANSWERED = "items_that_cannot_be_decoded", "items_without_an_answer"
HELD_OUT = 5
"""One clip in so many is never fitted on: the read-out is judged on these, and pictures are of these."""
POOL_BYTES = 2**30
"""Other clips' frames that are kept, over all grids."""

Answers = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class RetrievedSpan:
    """A span's latents [n,D], the real frame nearest to them, its label, and whether it is the true future frame."""

    latents: np.ndarray
    nearest: Frame
    label: str
    correct: bool


@dataclass(frozen=True)
class RetrievedItem:
    """An item's last observed frame, its future frames, and its spans."""

    observed: Frame
    future: list[Frame]
    spans: list[RetrievedSpan]


@dataclass
class SpanScores:
    """A model's spans: their scores, what could not be compared by reason, the read-out, and the items to picture."""

    scores: list[SpanScore] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    readout: Readout | None = None
    pictured: dict[str, RetrievedItem] = field(default_factory=dict)


def read_answers(path: Path) -> Answers:
    """The first answer to each prompt, with its spans and latents.  Raises ValueError for a table without latents."""
    table = scan_parquet(path)
    if "latents" not in table.collect_schema():
        raise ValueError(f"{path} has no column latents: answer these prompts again with keep_latents")
    kept = table.filter(pl.col("sample") == 0).select("prompt_id", "spans", "latents").collect()
    return {row["prompt_id"]: row for row in kept.iter_rows(named=True)}


def sample_pictured(items: Sequence[ItemEntry], n: int, seed: int) -> list[str]:
    """Ids of n items of held-out clips, every depth in turn in the order of a hash: the same for every model."""
    depths: dict[int, list[str]] = {}
    for entry in sorted(items, key=lambda entry: stable_hash(seed, entry.id)):
        if is_held_out(entry.clip, seed):
            depths.setdefault(entry.frames, []).append(entry.id)
    return sample_in_turns([depths[depth] for depth in sorted(depths, reverse=True)], n)


def is_held_out(clip: str, seed: int) -> bool:
    """Whether no frame of the clip may be fitted on."""
    return stable_hash(seed, f"clip {clip}") % HELD_OUT == 0


def score_spans(
    encoder: FrameEncoder, answers: Answers, items: Path, pool: FramePool, pictured: Sequence[str], seed: int,
    progress: Callable[[int], None],
) -> SpanScores:  # fmt: skip
    """Scores every span of every answer that has a true future frame; `pictured` names the items to keep for a picture.

    Raises ValueError for an answer whose latents are not those of its spans or of another width than the tower's.
    """
    result, fit, cache = SpanScores(), ReadoutFit(), frame_cache(POOL_BYTES)
    for number, item in enumerate(read_items(items), start=1):
        try:
            observed, future = encoder.item(item)
        except (ValueError, OSError):
            result.left_out[UNDECODABLE] += 1
            continue
        finally:
            progress(number)
        add_to_fit(fit, observed, future, is_held_out(item.clip, seed))
        if item.id not in answers:
            result.left_out[UNANSWERED] += 1
            continue
        others = pool.beside(encoder, item.clip, future[0].grid, cache)
        spans = _score(result, item, answers[item.id], observed, future, others)
        if item.id in pictured:
            result.pictured[item.id] = RetrievedItem(observed[-1], future, spans)
    result.readout = fit.fit()
    result.pictured = {name: result.pictured[name] for name in pictured if name in result.pictured}
    return result


def add_to_fit(fit: ReadoutFit, observed: Sequence[Frame], future: Sequence[Frame], held_out: bool) -> None:
    """Adds an item's frames: the observed ones to fit on, or, where its clip is held out, all to judge by."""
    for frame in observed:
        fit.add_observed(frame.features, frame.pixels, frame.grid, held_out)
    if held_out:
        last = observed[-1].features, observed[-1].pixels
        for frame in future:
            fit.add_future((frame.features, frame.pixels), last, frame.grid)


def _score(
    result: SpanScores, item: Item, answer: Mapping[str, Any], observed: Sequence[Frame], future: Sequence[Frame],
    others: Sequence[Frame],
) -> list[RetrievedSpan]:  # fmt: skip
    """Scores an answer's spans, each beside the frame that it stands for."""
    spans = spans_of(answer["latents"], answer["spans"], item.id)
    if not sum(answer["spans"]):
        result.left_out[NO_LATENTS] += 1
    elif spans[0].shape[1] != future[0].features.shape[1]:
        raise ValueError(f"answer {item.id!r} has latents of {spans[0].shape[1]} components, the checkpoint's features "
                         f"have {future[0].features.shape[1]}: it is another model's answer")  # fmt: skip
    result.left_out[BEYOND] += max(0, len(spans) - len(future))
    clip_frames = [(f"future {k}", frame) for k, frame in enumerate(future, start=1)]
    clip_frames += [(f"observed {k}", frame) for k, frame in enumerate(observed, start=1)]
    retrieved = []
    for number, (latents, true) in enumerate(zip(spans, future, strict=False), start=1):
        if not len(latents):
            result.left_out[EMPTY] += 1
            continue
        clip = [frame for frame in (*future, *observed[:-1]) if frame.key != true.key]
        apart = [frame for frame in others if frame.key != true.key]
        features = [_stack(frames, true) for frames in (clip, apart)]
        result.scores.append(score_span(item.id, number, latents, true.features, observed[-1].features, *features))
        candidates = [*clip_frames, *(("another clip", frame) for frame in apart)]
        place = distances(latents, _stack([frame for _, frame in candidates], true)).argmin()
        label, nearest = candidates[int(place)]
        retrieved.append(RetrievedSpan(latents, nearest, label, nearest.key == true.key))
    return retrieved


def _stack(frames: Sequence[Frame], like: Frame) -> np.ndarray:
    """Features [C,T,D], also of no frames."""
    return np.stack([f.features for f in frames]) if frames else np.zeros((0, *like.features.shape), np.float32)
