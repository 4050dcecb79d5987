"""One pass of a checkpoint's tower over a benchmark's images: spans are scored, the read-out's sums gathered, and what
is pictured is kept."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from evaluation.latents.frame_pool import Frame, FrameEncoder, FramePool, Item, ItemEntry, frame_cache, read_items
from evaluation.latents.readout import Readout, ReadoutFit
from evaluation.latents.retrieval_report import BEYOND, EMPTY, NO_LATENTS, SpanScore, distances, score_span, spans_of
from evaluation.latents.retrieval_sheet import SheetItem, SheetSpan
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
    """A span's latents [n,D], the real frame nearest to them, and what that is."""

    latents: np.ndarray
    nearest: Frame
    nearest_is: str
    right: bool


@dataclass(frozen=True)
class RetrievedItem:
    """An item's last observed and its future frames, and its spans."""

    observed: Frame
    future: list[Frame]
    spans: list[RetrievedSpan]


@dataclass
class SpanScores:
    """What a pass gave: scores, what could not be compared by reason, the read-out's sums, and items by id."""

    scores: list[SpanScore] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    fit: ReadoutFit = field(default_factory=ReadoutFit)
    pictured: dict[str, RetrievedItem] = field(default_factory=dict)


def read_answers(path: Path) -> Answers:
    """The first answer to each prompt, with its spans and latents.  Raises ValueError for a table without latents."""
    table = scan_parquet(path)
    if "latents" not in table.collect_schema():
        raise ValueError(f"{path} has no column latents: answer these prompts again with keep_latents")
    kept = table.filter(pl.col("sample") == 0).select("prompt_id", "spans", "latents").collect()
    return {row["prompt_id"]: row for row in kept.iter_rows(named=True)}


def sample_pictured(known: Sequence[ItemEntry], most: int, seed: int) -> list[str]:
    """Items of held-out clips, of every depth in turn and else by lot: the same for every model, whatever comes out."""
    depths: dict[int, list[str]] = {}
    for entry in sorted(known, key=lambda entry: stable_hash(seed, entry.id)):
        if is_held_out(entry.clip, seed):
            depths.setdefault(entry.frames, []).append(entry.id)
    turns = [(place, -depth, name) for depth, names in depths.items() for place, name in enumerate(names)]
    chosen = sorted(turns)[:most]
    return [name for _, _, name in sorted(chosen, key=lambda turn: (turn[1], turn[0]))]


def is_held_out(clip: str, seed: int) -> bool:
    """Whether no frame of the clip may be fitted on."""
    return stable_hash(seed, f"clip {clip}") % HELD_OUT == 0


def score_spans(
    eye: FrameEncoder, answers: Answers, items: Path, pool: FramePool, shown: Sequence[str], seed: int,
    progress: Callable[[int], None],
) -> SpanScores:  # fmt: skip
    """Scores every span of every answer that has a true future frame; `shown` names the items to keep for a picture.

    Raises ValueError for an answer whose latents are not those of its spans or of another width than the tower's.
    """
    seen, kept = SpanScores(), frame_cache(POOL_BYTES)
    for number, item in enumerate(read_items(items), start=1):
        try:
            observed, future = eye.item(item)
        except (ValueError, OSError):
            seen.left_out[UNDECODABLE] += 1
            continue
        finally:
            progress(number)
        _gather(seen.fit, observed, future, is_held_out(item.clip, seed))
        if item.id not in answers:
            seen.left_out[UNANSWERED] += 1
            continue
        others = pool.beside(eye, item.clip, future[0].grid, kept)
        spans = _score(seen, item, answers[item.id], observed, future, others)
        if item.id in shown:
            seen.pictured[item.id] = RetrievedItem(observed[-1], future, spans)
    return seen


def drawn_items(
    shown: Sequence[str], models: Mapping[str, tuple[Mapping[str, RetrievedItem], Readout | None]]
) -> list[SheetItem]:
    """The kept items with each model's spans; the true frames are painted by the first model's read-out."""
    first, readout = next(iter(models.values()))
    drawn = []
    for name in (name for name in shown if name in first):
        item = first[name]
        drawn.append(
            SheetItem(
                name,
                item.observed.shown,
                [frame.shown for frame in item.future],
                [readout.paint(frame.features, frame.grid) for frame in item.future] if readout else [],
                {model: _drawn(kept[name], painter) for model, (kept, painter) in models.items() if name in kept},
            )
        )  # fmt: skip
    return drawn


def _drawn(item: RetrievedItem, readout: Readout | None) -> list[SheetSpan]:
    grid = item.future[0].grid
    return [
        SheetSpan(s.nearest.shown, s.nearest_is, s.right, readout.paint(s.latents, grid) if readout else None)
        for s in item.spans
    ]


def _gather(fit: ReadoutFit, observed: Sequence[Frame], future: Sequence[Frame], held_out: bool) -> None:
    for frame in observed:
        fit.add_observed(frame.features, frame.pixels, frame.grid, held_out)
    if held_out:
        last = observed[-1].features, observed[-1].pixels
        for frame in future:
            fit.add_future((frame.features, frame.pixels), last, frame.grid)


def _score(
    seen: SpanScores, item: Item, answer: Mapping[str, Any], observed: Sequence[Frame], future: Sequence[Frame],
    others: Sequence[Frame],
) -> list[RetrievedSpan]:  # fmt: skip
    """An answer's spans, each beside the frame that it stands for."""
    spans = spans_of(answer["latents"], answer["spans"], item.id)
    if not sum(answer["spans"]):
        seen.left_out[NO_LATENTS] += 1
    elif spans[0].shape[1] != future[0].features.shape[1]:
        raise ValueError(f"answer {item.id!r} has latents of {spans[0].shape[1]} components, the checkpoint's features "
                         f"have {future[0].features.shape[1]}: it is another model's answer")  # fmt: skip
    seen.left_out[BEYOND] += max(0, len(spans) - len(future))
    imagined = []
    for place, (latents, true) in enumerate(zip(spans, future, strict=False)):
        if not len(latents):
            seen.left_out[EMPTY] += 1
            continue
        names = {f"future {k}": frame for k, frame in enumerate(future, start=1)}
        names |= {f"observed {k}": frame for k, frame in enumerate(observed, start=1)}
        clip = [frame for frame in (*future, *observed[:-1]) if frame.key != true.key]
        apart = [frame for frame in others if frame.key != true.key]
        features = [_stack(frames, true) for frames in (clip, apart)]
        seen.scores.append(score_span(item.id, place + 1, latents, true.features, observed[-1].features, *features))
        names |= {f"another clip {k}": frame for k, frame in enumerate(apart)}
        nearest = list(names)[int(distances(latents, _stack(list(names.values()), true)).argmin())]
        said = "another clip" if nearest.startswith("another") else nearest
        imagined.append(RetrievedSpan(latents, names[nearest], said, names[nearest].key == true.key))
    return imagined


def _stack(frames: Sequence[Frame], like: Frame) -> np.ndarray:
    """Features [C,T,D], also of no frames."""
    return np.stack([f.features for f in frames]) if frames else np.zeros((0, *like.features.shape), np.float32)
