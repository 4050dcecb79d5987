"""The report of future-frame retrieval: where the true future frame ranks among real frames, and the latent skill.

Features are SFT's targets: those of the frozen vision tower and merger, of frames at latent size.  The measure is SFT's
loss, the mean squared error over latents and components: latents are trained by it, the latent skill is defined by it,
and unlike a cosine it ignores the large mean that all features of a tower share.  (In the demo both rank alike.)

The baseline puts the last observed frame in the latents' place.  That frame itself is never a candidate, for then the
baseline could not win; whether latents are nearer to the true frame than to it is a figure of its own
(`closer_to_true`).

Shapes: n latents of a span, T merged tokens of a frame, C frames, D hidden size.  No torch: scored from stored answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.statistics import clustered_mean, clustered_proportion

REPORT_FILE, PICTURE_FILE, MEAN_FILE = "latent_retrieval.json", "retrieved_frames.png", "mean.safetensors"
"""The files that `evaluation.latent_retrieval` writes of each model."""
NO_LATENTS, BEYOND, EMPTY = "answers_without_latents", "spans_beyond_the_frames", "spans_without_latents"
NO_SPANS = "This model's answers contain no latents that stand beside a true future frame: there is nothing to rank."


@dataclass(frozen=True)
class SpanScore:
    """One span beside its true future frame; ranks count from 1, frames as near as the true one stand before it.

    clip, others: how many candidates are other frames of the clip, and frames of other clips.  Ranks `in_clip` are
    among the clip's frames alone.  Errors are mean squares: of the latents to the true frame and to the last observed
    one, and of that one to the true one (`copy_error`: what a copy of the last observed frame costs).
    """

    item: str
    number: int
    clip: int
    others: int
    rank: int
    observed_rank: int
    rank_in_clip: int
    observed_rank_in_clip: int
    error: float
    error_to_observed: float
    copy_error: float


def distances(latents: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Mean squared errors [C] between latents [n,D] and frames [C,T,D], place by place as SFT compares them.

    Where a span is shorter or longer than a frame, the places that both have count.
    """
    places = min(len(latents), frames.shape[1])
    return np.array([np.square(frame[:places] - latents[:places]).mean(dtype=np.float64) for frame in frames])


def score_span(
    item: str, number: int, latents: np.ndarray, true: np.ndarray, observed: np.ndarray, clip: np.ndarray,
    others: np.ndarray,
) -> SpanScore:  # fmt: skip
    """Span `number` (from 1) of an item.

    latents [n,D], n > 0; true, observed [T,D]: the frame that it stands for and the last observed one; clip, others
    [C,T,D]: the clip's other frames, but for the last observed one, and frames of other clips.
    """
    frames = np.concatenate([true[None], clip, others])
    errors, baseline = distances(latents, frames), distances(observed[: len(latents)], frames)
    here = 1 + len(clip)
    return SpanScore(
        item=item, number=number, clip=len(clip), others=len(others),
        rank=_rank(errors), observed_rank=_rank(baseline),
        rank_in_clip=_rank(errors[:here]), observed_rank_in_clip=_rank(baseline[:here]),
        error=float(errors[0]), error_to_observed=float(distances(latents, observed[None])[0]),
        copy_error=float(baseline[0]),
    )  # fmt: skip


def _rank(errors: np.ndarray) -> int:
    """The rank of the first; a tie counts against it, or constant latents would win."""
    return 1 + int((errors[1:] <= errors[0]).sum())


def retrieval_report(scores: Sequence[SpanScore], left_out: Mapping[str, int], model_kind: str) -> dict[str, Any]:
    """The content of latent_retrieval.json (docs/data-contracts.md): ranks, baseline, chance, skill, and a sentence.

    `left_out` counts what could not be compared, by reason.  Intervals are over items.
    """
    items = [score.item for score in scores]
    in_clip = [score for score in scores if score.clip]
    changed = [score for score in scores if score.copy_error > 0]
    report = {
        "benchmark": "twiffbench",
        "model_kind": model_kind,
        "measure": "mse",
        "n_spans": len(scores),
        "n_items": len(set(items)),
        "left_out": {name: count for name, count in left_out.items() if count},
        "candidates": {name: _mean([getattr(s, field) for s in scores])
                       for name, field in (("same_clip", "clip"), ("other_clips", "others"))},
        **_ranked(scores, "rank", "observed_rank", lambda s: 1 + s.clip + s.others),
        "within_clip": {"n_spans": len(in_clip)}
        | _ranked(in_clip, "rank_in_clip", "observed_rank_in_clip", lambda s: 1 + s.clip),
        "closer_to_true": clustered_proportion([s.error < s.error_to_observed for s in scores], items),
        "by_span": {
            str(number): _quality([s.rank for s in of_it], [s.item for s in of_it]) | {"n": len(of_it)}
            for number in sorted({s.number for s in scores})
            for of_it in [[s for s in scores if s.number == number]]
        },
        "skill": clustered_mean([1 - s.error / s.copy_error for s in changed], [s.item for s in changed]).as_dict(),
        "unchanged_spans": len(scores) - len(changed),
    }  # fmt: skip
    return report | {"sentence": sentence(report)}


def sentence(report: Mapping[str, Any]) -> str:
    """The conclusion of a report; its numbers decide the words."""
    if not report["n_spans"]:
        return NO_SPANS
    latents, baseline = report["true_frame"]["top1"], report["observed_frame"]["top1"]
    closer, gain = report["closer_to_true"], report["gain"]["mrr"]
    candidates = 1 + report["candidates"]["same_clip"] + report["candidates"]["other_clips"]
    low, high = (100 * bound for bound in latents["interval"])
    return (
        f"The true future frame is the nearest of {candidates:.1f} real frames for {100 * latents['accuracy']:.1f} % of"
        f" latent spans ({low:.1f} to {high:.1f}, n = {latents['n']}), for the last observed frame in their place"
        f" {100 * baseline['accuracy']:.1f} %, by chance {100 * report['chance']['top1']:.1f} %;"
        f" {100 * closer['accuracy']:.1f} % are nearer to it than to that frame: {_conclusion(gain, closer)}."
    )


def _conclusion(gain: Mapping[str, Any], closer: Mapping[str, Any]) -> str:
    """Words for a gain; a blurred copy of the observed frame has one, too, but stays nearer to that frame."""
    low, high = gain["interval"]
    if low > 0:
        if closer["interval"][0] > 0.5:
            return "these latents show what happens next"
        return "these latents rank frames better than the observed frame does, but stay nearer to it"
    if high < 0:
        return "these latents show less of the future than the observed frame does"
    return "no more of the future than in the observed frame can be shown"


def _ranked(scores: Sequence[SpanScore], rank: str, observed: str, candidates: Any) -> dict[str, Any]:
    """The ranks by the latents, by the observed frame, their paired difference, and those by chance."""
    items = [score.item for score in scores]
    ranks, baseline = ([getattr(score, name) for score in scores] for name in (rank, observed))
    sizes = [candidates(score) for score in scores]
    difference = {
        "top1": [float(a == 1) - float(b == 1) for a, b in zip(ranks, baseline, strict=True)],
        "mrr": [1 / a - 1 / b for a, b in zip(ranks, baseline, strict=True)],
    }
    harmonic = np.cumsum(1 / np.arange(1, max(sizes, default=1) + 1))
    return {
        "true_frame": _quality(ranks, items),
        "observed_frame": _quality(baseline, items),
        "gain": {name: clustered_mean(values, items).as_dict() for name, values in difference.items()},
        "chance": {
            "top1": _mean([1 / size for size in sizes]),
            "mrr": _mean([harmonic[size - 1] / size for size in sizes]),
        },
    }


def _quality(ranks: Sequence[int], items: Sequence[str]) -> dict[str, Any]:
    return {
        "top1": clustered_proportion([rank == 1 for rank in ranks], items),
        "mrr": clustered_mean([1 / rank for rank in ranks], items).as_dict(),
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None
