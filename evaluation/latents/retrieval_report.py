"""What a latent span shows: where the true future frame ranks among real frames, and how far off the latents are.

Features are those that SFT aims at: the frozen tower's and merger's, of frames at latent size.  The measure is SFT's
own, the mean square over latents and components: what the latents were taught by, what the latent skill is told in, and
blind to the large mean that all features of a tower share, which a cosine is not.  (In the demo both rank alike.)

The baseline puts the last observed frame in the latents' place.  That frame itself is never a candidate, for then the
baseline could not win; whether latents are nearer to the true frame than to it is told apart (`above_observed`).

Shapes: n latents of a span, T merged tokens of a frame, C frames, D hidden size.  No torch: scored from stored answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.latents.clustered import clustered_mean, clustered_proportion, clustered_ratio

REPORT_FILE, PICTURE_FILE, MEAN_FILE = "latent_retrieval.json", "retrieved_frames.png", "mean.safetensors"
"""What `evaluation.latent_retrieval` leaves of each model."""
NO_LATENTS, BEYOND, EMPTY = "answers_without_latents", "spans_beyond_the_frames", "spans_without_latents"
NOTHING = "This model's answers contain no latents that stand beside a true future frame: nothing was imagined."


@dataclass(frozen=True)
class SpanScore:
    """One span beside the frame that it stands for; ranks count from 1, frames as near as the true one stand before it.

    `clip` counts the other frames of the clip and `others` those of other clips among the candidates; ranks `in_clip`
    are among the clip's frames alone; errors are mean squares: of the latents to the true frame and to the last
    observed one, and of that one to the true one ("nothing changes").
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
    unchanged_error: float


def distances(latents: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Mean squares [C] between latents [n,D] and frames [C,T,D], place by place as SFT compares them.

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
    own, still = distances(latents, frames), distances(observed[: len(latents)], frames)
    here = 1 + len(clip)
    return SpanScore(
        item=item, number=number, clip=len(clip), others=len(others),
        rank=_rank(own), observed_rank=_rank(still),
        rank_in_clip=_rank(own[:here]), observed_rank_in_clip=_rank(still[:here]),
        error=float(own[0]), error_to_observed=float(distances(latents, observed[None])[0]),
        unchanged_error=float(still[0]),
    )  # fmt: skip


def _rank(found: np.ndarray) -> int:
    """Of the first; a tie counts against it, or latents that say nothing would win."""
    return 1 + int((found[1:] <= found[0]).sum())


def retrieval_report(scores: Sequence[SpanScore], left_out: Mapping[str, int], model_kind: str) -> dict[str, Any]:
    """Shape of latent_retrieval.json (docs/data-contracts.md): ranks, baseline, chance, skill, and what they say.

    `left_out` counts what could not be compared, by reason.  Intervals are over items.
    """
    items = [score.item for score in scores]
    deep = [score for score in scores if score.clip]
    moved = [score for score in scores if score.unchanged_error > 0]
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
        "within_clip": {"n_spans": len(deep)}
        | _ranked(deep, "rank_in_clip", "observed_rank_in_clip", lambda s: 1 + s.clip),
        "above_observed": clustered_proportion([s.error < s.error_to_observed for s in scores], items),
        "by_span": {
            str(number): _quality([s.rank for s in of_it], [s.item for s in of_it]) | {"n": len(of_it)}
            for number in sorted({s.number for s in scores})
            for of_it in [[s for s in scores if s.number == number]]
        },
        "skill": clustered_mean([1 - s.error / s.unchanged_error for s in moved], [s.item for s in moved]).as_dict(),
        "skill_of_sums": _skill_of_sums(scores),
        "nothing_changes": len(scores) - len(moved),
    }  # fmt: skip
    return report | {"sentence": sentence(report)}


def sentence(report: Mapping[str, Any]) -> str:
    """What the numbers of a report say, in words that they decide."""
    if not report["n_spans"]:
        return NOTHING
    true, observed = report["true_frame"]["top1"], report["observed_frame"]["top1"]
    above, gain = report["above_observed"], report["gain"]["mrr"]
    of = 1 + report["candidates"]["same_clip"] + report["candidates"]["other_clips"]
    low, high = (100 * bound for bound in true["interval"])
    return (
        f"The true future frame is the nearest of {of:.1f} real frames for {100 * true['accuracy']:.1f} % of latent"
        f" spans ({low:.1f} to {high:.1f}, n = {true['n']}), for the last observed frame in their place"
        f" {100 * observed['accuracy']:.1f} %, by chance {100 * report['chance']['top1']:.1f} %;"
        f" {100 * above['accuracy']:.1f} % are nearer to it than to that frame: {_conclusion(gain, above)}."
    )


def _conclusion(gain: Mapping[str, Any], above: Mapping[str, Any]) -> str:
    """A gain over the baseline alone may be a blurred copy of the frame that was seen: they must also leave it."""
    low, high = gain["interval"]
    if low > 0:
        if above["interval"][0] > 0.5:
            return "these latents show what happens next"
        return "these latents tell frames apart better than what was seen does, but do not leave it"
    if high < 0:
        return "these latents tell less of the future than the frame that was seen"
    return "no more of the future than in the frame that was seen, as far as this can tell"


def _ranked(scores: Sequence[SpanScore], rank: str, observed: str, candidates: Any) -> dict[str, Any]:
    """The latents' ranks, the observed frame's, their paired difference, and those of guessing."""
    items = [score.item for score in scores]
    own, still = ([getattr(score, name) for score in scores] for name in (rank, observed))
    sizes = [candidates(score) for score in scores]
    difference = {
        "top1": [float(a == 1) - float(b == 1) for a, b in zip(own, still, strict=True)],
        "mrr": [1 / a - 1 / b for a, b in zip(own, still, strict=True)],
    }
    harmonic = np.cumsum(1 / np.arange(1, max(sizes, default=1) + 1))
    return {
        "true_frame": _quality(own, items),
        "observed_frame": _quality(still, items),
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


def _skill_of_sums(scores: Sequence[SpanScore]) -> dict[str, Any]:
    """1 - sum of errors / sum of "nothing changes": as SFT's curves have it, and where frames that hardly change count
    little.  The mean of ratios above lets each of them count like any other."""
    ratio = clustered_ratio([s.error for s in scores], [s.unchanged_error for s in scores], [s.item for s in scores])
    if ratio.mean is None or ratio.interval is None:
        return ratio.as_dict()
    low, high = ratio.interval
    return {"mean": 1 - ratio.mean, "n": ratio.n, "interval": [1 - high, 1 - low]}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None
