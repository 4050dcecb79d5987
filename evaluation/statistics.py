"""Intervals and paired tests: no score is published without its n and one of these.  All intervals are 95 %.

Those over clusters are for values that are not independent observations, such as the spans of one answer: of means,
percentiles of a bootstrap over clusters with a fixed seed; of proportions, Wilson's at the effective sample size.
"""

import itertools
import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
import polars as pl

Z95 = NormalDist().inv_cdf(0.975)
BOOTSTRAP_RESAMPLES = 4_000
BOOTSTRAP_SEED = 20_260_605
BOOTSTRAP_CELLS = 4_000_000
"""Resampled values that are in memory at a time."""
Interval = tuple[float, float]


@dataclass(frozen=True)
class Proportion:
    """`correct` of `n` with its Wilson interval; value and interval are None at n = 0, never 0."""

    correct: int
    n: int

    @property
    def value(self) -> float | None:
        return self.correct / self.n if self.n else None

    @property
    def interval(self) -> Interval | None:
        return wilson(self.correct, self.n)

    def as_dict(self) -> dict[str, Any]:
        return {"correct": self.correct, "n": self.n, "accuracy": self.value, "interval": _listed(self.interval)}


@dataclass(frozen=True)
class Mean:
    """A mean of n values with its bootstrap interval; None at n = 0."""

    mean: float | None
    n: int
    interval: Interval | None

    def as_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "n": self.n, "interval": _listed(self.interval)}


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of b minus accuracy of a on the same n items.

    `only_a`, `only_b`: items that only one of them gets right.  `interval` is Bonett and Price's (2012) adjusted Wald
    interval for paired proportions; `p_value` is McNemar's exact two-sided test.
    """

    difference: float
    n: int
    only_a: int
    only_b: int
    interval: Interval
    p_value: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"interval": list(self.interval)}


def wilson(correct: float, n: float) -> Interval | None:
    """Wilson score interval of a proportion, in [0, 1]; None without observations.

    Observations may be effective ones, which scipy's interval (of whole numbers, and of no columns) does not know.
    """
    if not 0 <= correct <= n:
        raise ValueError(f"{correct} correct of {n}")
    if n == 0:
        return None
    low, high = _wilson(correct, n)
    return max(0.0, low), min(1.0, high)


def wilson_columns(correct: str, n: str, prefix: str) -> list[pl.Expr]:
    """The same interval for a whole table: columns `{prefix}_low` and `{prefix}_high`, null where n is 0."""
    bounds = _wilson(pl.col(correct).cast(pl.Float64), pl.col(n).cast(pl.Float64))
    return [
        pl.when(pl.col(n) > 0).then(bound.clip(0.0, 1.0)).alias(f"{prefix}_{name}")
        for name, bound in zip(("low", "high"), bounds, strict=True)
    ]


def _wilson(correct: Any, n: Any) -> tuple[Any, Any]:
    """Of numbers or of columns, which rounding may leave just outside [0, 1]."""
    p, weight = correct / n, 1 + Z95 * Z95 / n
    centre = (p + Z95 * Z95 / (2 * n)) / weight
    half = Z95 / weight * (p * (1 - p) / n + Z95 * Z95 / (4 * n * n)) ** 0.5
    return centre - half, centre + half


def bootstrap_mean(values: Sequence[float]) -> Mean:
    """The mean and its percentile-bootstrap interval; the seed is fixed, so a report can be repeated."""
    from scipy.stats import bootstrap

    x = np.asarray(values, dtype=np.float64)
    if x.size == 0:
        return Mean(None, 0, None)
    if not np.isfinite(x).all():
        raise ValueError("a mean of values that are not finite")
    if x.min() == x.max():  # also a single value, which scipy refuses
        return Mean(float(x[0]), int(x.size), (float(x[0]), float(x[0])))
    result = bootstrap(
        (x,),
        np.mean,
        n_resamples=BOOTSTRAP_RESAMPLES,
        batch=max(1, BOOTSTRAP_CELLS // x.size),
        method="percentile",
        rng=np.random.default_rng(BOOTSTRAP_SEED),
    )
    low, high = result.confidence_interval
    return Mean(float(x.mean()), int(x.size), (float(low), float(high)))


def clustered_mean(values: Sequence[float], clusters: Sequence[Hashable]) -> Mean:
    """The mean over all values, with its interval over clusters; n counts values.

    Raises ValueError where a value has no cluster or is not finite.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) != len(clusters) or not np.isfinite(x).all():
        raise ValueError(f"a clustered mean needs finite values, each with its cluster; got {len(x)}, {len(clusters)}")
    if not len(x):
        return Mean(None, 0, None)
    places, groups = _places(clusters)
    sums = np.stack([np.bincount(places, x, groups), np.bincount(places, minlength=groups)], 1)
    resampled = _resamples(groups) @ sums
    low, high = np.quantile(resampled[:, 0] / resampled[:, 1], [0.025, 0.975])
    return Mean(float(x.mean()), len(x), (float(low), float(high)))


def clustered_proportion(hits: Sequence[bool], clusters: Sequence[Hashable]) -> dict[str, Any]:
    """In the shape of `Proportion.as_dict`; a bootstrap would be too narrow near 0 and 1."""
    proportion = Proportion(sum(hits), len(hits))
    if proportion.value is None:
        return proportion.as_dict()
    effective = _effective_size(np.asarray(hits, dtype=np.float64), clusters)
    return proportion.as_dict() | {"interval": _listed(wilson(proportion.value * effective, effective))}


def _effective_size(x: np.ndarray, clusters: Sequence[Hashable]) -> float:
    """n / the design effect (Kish 1965), at least 1: the variance of the mean over clusters over that of single values.

    Where all values are equal, or all are of one cluster, it is undefined, and each cluster counts once.
    """
    places, groups = _places(clusters)
    if groups < 2 or x.min() == x.max():
        return float(groups)
    residuals = np.bincount(places, x - x.mean(), groups)
    over_clusters = groups / (groups - 1) * np.square(residuals).sum() / len(x) ** 2
    return float(len(x) / max(1.0, over_clusters / (x.var() / len(x))))


def _places(clusters: Sequence[Hashable]) -> tuple[np.ndarray, int]:
    """Each value's cluster as a number from 0, and how many clusters there are."""
    number = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    return np.array([number[name] for name in clusters], dtype=np.int64), len(number)


@lru_cache(maxsize=2)
def _resamples(clusters: int) -> np.ndarray:
    """The counts of each cluster in each resample [resamples, clusters]: the same for all figures of a report."""
    shares = np.full(clusters, 1 / clusters)
    counts = np.random.default_rng(BOOTSTRAP_SEED).multinomial(clusters, shares, size=BOOTSTRAP_RESAMPLES)
    return counts.astype(np.float64)


def paired_difference(a: Sequence[bool], b: Sequence[bool]) -> PairedDifference:
    """Compares two sets of verdicts on the same items, in the same order (b - a).  Raises ValueError when they differ
    in length or are empty.
    """
    if len(a) != len(b) or not len(a):
        raise ValueError(f"a paired comparison needs the same items on both sides; got {len(a)} and {len(b)}")
    n = len(a)
    only_a = sum(1 for x, y in zip(a, b, strict=True) if x and not y)
    only_b = sum(1 for x, y in zip(a, b, strict=True) if y and not x)
    p_a, p_b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    centre, half = p_b - p_a, Z95 * math.sqrt((p_a + p_b - (p_b - p_a) ** 2) / (n + 2))
    interval = max(-1.0, centre - half), min(1.0, centre + half)
    return PairedDifference((only_b - only_a) / n, n, only_a, only_b, interval, mcnemar_exact(only_a, only_b))


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value: the discordant items split as a fair coin would split them."""
    from scipy.stats import binomtest

    n = only_a + only_b
    return float(binomtest(only_a, n).pvalue) if n else 1.0


def quadratic_kappa(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Cohen's weighted kappa (1968) with quadratic weights of two judgements of the same items, in the same order.

    One less the mean square of a - b over what it would be if the marks of a and b were paired at random.  None where
    that is 0, as without items or where all marks are one: chance alone agrees, and nothing can be said.
    """
    if len(a) != len(b):
        raise ValueError(f"an agreement needs the same items on both sides; got {len(a)} and {len(b)}")
    if not len(a):
        return None
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    by_chance = float(x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    return 1 - float(((x - y) ** 2).mean()) / by_chance if by_chance else None


def agreement(judgements: Sequence[Sequence[float | None]]) -> dict[str, Any]:
    """The agreement of repeated judgements; `judgements` has a row for each item, None where a judgement gave no mark.

    kappa: the mean of `quadratic_kappa` over the pairs of judgements for which it is defined, each on the items that
    both marked; n: items with at least two marks.
    """
    columns = list(zip(*judgements, strict=True))
    kappas = []
    for first, second in itertools.combinations(columns, 2):
        both = [(x, y) for x, y in zip(first, second, strict=True) if x is not None and y is not None]
        kappas.append(quadratic_kappa([x for x, _ in both], [y for _, y in both]))
    defined = [kappa for kappa in kappas if kappa is not None]
    n = sum(1 for marks in judgements if sum(mark is not None for mark in marks) >= 2)
    return {"kappa": float(np.mean(defined)) if defined else None, "n": n}


def _listed(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)
