"""Intervals for values that come in clusters: several spans of one answer are not so many independent observations.

All intervals are 95 % percentile intervals of a bootstrap over clusters, whose seed is fixed so that a report can be
repeated.
"""

from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from evaluation.statistics import BOOTSTRAP_DRAWS, BOOTSTRAP_SEED, Interval, Mean, wilson


def clustered_mean(values: Sequence[float], clusters: Sequence[Hashable]) -> Mean:
    """The mean over all values, with its interval over clusters; n counts values.

    Raises ValueError where a value has no cluster or is not finite.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) != len(clusters) or not np.isfinite(x).all():
        raise ValueError(f"a clustered mean needs finite values, each with its cluster; got {len(x)}, {len(clusters)}")
    if not len(x):
        return Mean(None, 0, None)
    return Mean(float(x.mean()), len(x), _interval(x, np.ones(len(x)), clusters))


def clustered_ratio(above: Sequence[float], below: Sequence[float], clusters: Sequence[Hashable]) -> Mean:
    """The ratio of two sums with its interval over clusters; None where the lower sum is 0."""
    top, bottom = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    if not len(top) or bottom.sum() == 0:
        return Mean(None, len(top), None)
    return Mean(float(top.sum() / bottom.sum()), len(top), _interval(top, bottom, clusters))


def clustered_proportion(hits: Sequence[bool], clusters: Sequence[Hashable]) -> dict[str, Any]:
    """In the shape of `Proportion.as_dict`.

    Where all or none hit, a bootstrap has nothing to say: there it is Wilson's interval, each cluster counted once.
    """
    mean, correct, groups = clustered_mean([float(hit) for hit in hits], clusters), sum(hits), len(set(clusters))
    interval = mean.interval
    if correct in (0, len(hits)):
        interval = wilson(groups if correct else 0, groups)
    return {
        "correct": correct, "n": len(hits), "accuracy": mean.mean,
        "interval": None if interval is None else list(interval),
    }  # fmt: skip


def _interval(above: np.ndarray, below: np.ndarray, clusters: Sequence[Hashable]) -> Interval:
    """Of a ratio of sums; draws in which the lower sum is 0 are left out."""
    number = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    places = np.array([number[name] for name in clusters])
    sums = np.stack([np.bincount(places, weights, len(number)) for weights in (above, below)], 1)
    drawn = _draws(len(number)) @ sums
    drawn = drawn[drawn[:, 1] != 0]
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return float(low), float(high)


@lru_cache(maxsize=2)
def _draws(clusters: int) -> np.ndarray:
    """How often each cluster is in each resample [draws, clusters]: the same for all figures of a report."""
    shares = np.full(clusters, 1 / clusters)
    return np.random.default_rng(BOOTSTRAP_SEED).multinomial(clusters, shares, size=BOOTSTRAP_DRAWS).astype(np.float64)
