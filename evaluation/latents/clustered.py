"""Confidence intervals for clustered values: the spans of one answer are not independent observations.

All intervals are 95 %: of means and ratios, percentiles of a bootstrap over clusters with a fixed seed; of proportions,
Wilson's at the effective sample size.
"""

from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from evaluation.statistics import BOOTSTRAP_RESAMPLES, BOOTSTRAP_SEED, Interval, Mean, wilson


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
    """In the shape of `Proportion.as_dict`; a bootstrap would be too narrow near 0 and 1."""
    correct, n = sum(hits), len(hits)
    effective = _effective(np.asarray(hits, dtype=np.float64), clusters)
    interval = wilson(correct / n * effective, effective) if n else None
    return {
        "correct": correct, "n": n, "accuracy": correct / n if n else None,
        "interval": None if interval is None else list(interval),
    }  # fmt: skip


def _effective(x: np.ndarray, clusters: Sequence[Hashable]) -> float:
    """The effective sample size: n / the design effect (Kish 1965), the ratio of the variance of the mean over clusters
    to that over single values, at least 1.

    Where all values are equal, or all are of one cluster, it is undefined, and each cluster counts once.
    """
    places, groups = _places(clusters)
    if groups < 2 or x.min() == x.max():
        return float(groups)
    residuals = np.bincount(places, x - x.mean(), groups)
    over_clusters = groups / (groups - 1) * np.square(residuals).sum() / len(x) ** 2
    return float(len(x) / max(1.0, over_clusters / (x.var() / len(x))))


def _interval(above: np.ndarray, below: np.ndarray, clusters: Sequence[Hashable]) -> Interval:
    """Of a ratio of sums; resamples in which the lower sum is 0 are left out."""
    places, groups = _places(clusters)
    resampled = _draws(groups) @ np.stack([np.bincount(places, weights, groups) for weights in (above, below)], 1)
    resampled = resampled[resampled[:, 1] != 0]
    low, high = np.quantile(resampled[:, 0] / resampled[:, 1], [0.025, 0.975])
    return float(low), float(high)


def _places(clusters: Sequence[Hashable]) -> tuple[np.ndarray, int]:
    """Each value's cluster as a number from 0, and how many clusters there are."""
    number = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    return np.array([number[name] for name in clusters], dtype=np.int64), len(number)


@lru_cache(maxsize=2)
def _draws(clusters: int) -> np.ndarray:
    """How often each cluster is in each resample [draws, clusters]: the same for all figures of a report."""
    shares = np.full(clusters, 1 / clusters)
    return (
        np.random.default_rng(BOOTSTRAP_SEED).multinomial(clusters, shares, size=BOOTSTRAP_RESAMPLES).astype(np.float64)
    )
