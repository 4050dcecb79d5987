"""The geometry of stored latents: how alike those of different items are, and where spans lie on their main axes.

Names: n latents of an answer, N of all answers, S spans, D hidden size.  No torch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from evaluation.statistics import bootstrap_mean

MAX_POINTS = 2_000
"""Points of a map for each model, spread evenly over its answers in their order."""
SUBSPACE, ITERATIONS = 10, 30


def spans_of(data: bytes | None, sizes: Sequence[int], answer: str = "") -> list[np.ndarray]:
    """An answer's stored latents, float32 [n, D] for each span (training.data.prompts: float16, row-major).

    Raises ValueError, naming the answer, where bytes and spans cannot belong together.
    """
    total = sum(sizes)
    if data is None and not total:
        return [np.zeros((0, 0), np.float32) for _ in sizes]
    if data is None or not total or len(data) % (2 * total):
        stored = "none" if data is None else f"{len(data)} bytes"
        raise ValueError(f"answer {answer!r} has {total} latents in spans {list(sizes)}, but stored are {stored}: "
                         "answer it again with keep_latents")  # fmt: skip
    vectors = np.frombuffer(data, "<f2").astype(np.float32).reshape(total, -1)
    if not np.isfinite(vectors).all():
        raise ValueError(f"answer {answer!r} has latents that are not finite in float16: the model has diverged")
    return np.split(vectors, np.cumsum(sizes)[:-1])


def latent_statistics(answers: pl.DataFrame) -> dict[str, Any] | None:
    """Cosines and effective rank of the latents in an answers table, one answer an item; None without any latents.

    `within_item_cosine`: the mean cosine over the pairs of an answer's latents; `between_item_cosine`: that of its
    latents with all other answers' latents; both as means over answers with bootstrap intervals.  Collapsed
    latents, the same for every item, have a between-item cosine near 1 and an effective rank near 1.
    """
    kept = answers.filter(pl.col("latents").is_not_null())
    items = [np.concatenate(spans_of(*row)) for row in kept.select("latents", "spans", "prompt_id").iter_rows()]
    if not items:
        return None
    within, between = cosines(items)
    return {
        "n_answers": len(items),
        "n_latents": sum(map(len, items)),
        "within_item_cosine": bootstrap_mean(within).as_dict(),
        "between_item_cosine": bootstrap_mean(between).as_dict(),
        "effective_rank": effective_rank(np.concatenate(items)),
    }


def cosines(items: Sequence[np.ndarray]) -> tuple[list[float], list[float]]:
    """Mean cosine within each item [n,D] that has two latents or more, and of each item's latents with those of all
    others (none where there is one item).

    Sums of unit vectors give all pairs at once: |sum|^2 has every pair twice and each vector with itself once.
    """
    directions = [_directions(item) for item in items]
    sums = [d.sum(0) for d in directions]
    within = [
        float((s @ s - (d * d).sum()) / (len(d) * (len(d) - 1)))
        for s, d in zip(sums, directions, strict=True)
        if len(d) > 1
    ]
    if len(items) < 2:
        return within, []
    total, count = np.sum(sums, axis=0), sum(map(len, items))
    between = [float(s @ (total - s) / (len(d) * (count - len(d)))) for s, d in zip(sums, directions, strict=True)]
    return within, between


def effective_rank(latents: np.ndarray) -> float:
    """exp of the entropy of the normalised singular values of the centred latents [N,D] (Roy and Vetterli 2007).

    1 where all of them lie on a line or are one point; min(N - 1, D) where no direction is preferred.
    """
    centred = latents.astype(np.float64) - latents.mean(0, dtype=np.float64)
    gram = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    # far smaller than double precision can tell from the largest: what rounding left of a zero
    squares = np.linalg.eigvalsh(gram)
    values = np.sqrt(squares[squares > squares.max(initial=0.0) * len(gram) * np.finfo(np.float64).eps])
    if not values.size:
        return 1.0
    shares = values / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _directions(vectors: np.ndarray) -> np.ndarray:
    """Unit vectors, float64; a zero vector stays zero: its cosine with anything is 0."""
    vectors = vectors.astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)


def latent_map(answers: Mapping[str, pl.DataFrame], n: int = MAX_POINTS) -> dict[str, Any]:
    """The map of the models whose answers hold latents (ANSWERS with the column `latents`); {} where none does.

    {"axes": "PCA", "explained": [share, share], "models": {name: {"n", "x", "y", "span"}}}: n spans in all, and of
    those sampled the coordinates and the span's number within its answer, from 1.
    """
    spans = {name: span_means(rows) for name, rows in answers.items() if "latents" in rows.columns}
    spans = {name: (points, numbers) for name, (points, numbers) in spans.items() if len(points)}
    widths = {name: points.shape[1] for name, (points, _) in spans.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"latents of different widths have no common map: {widths}")
    sampled = {name: _spread(len(points), n) for name, (points, _) in spans.items()}
    if sum(map(len, sampled.values())) < 3:
        return {}
    axes, centre, explained = principal_axes(np.concatenate([spans[name][0][at] for name, at in sampled.items()]))
    models = {}
    for name, at in sampled.items():
        points, numbers = spans[name]
        x, y = ((points[at] - centre) @ axes.T).round(4).T
        models[name] = {"n": len(points), "x": x.tolist(), "y": y.tolist(), "span": numbers[at].tolist()}
    return {"axes": "PCA", "explained": explained, "models": models}


def span_means(answers: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The mean latent of every span [S, D] and its number within its answer [S].

    answers: with `latents` as stored (`spans_of`, whose errors it raises).  An empty span has no mean.
    """
    means, numbers = [], []
    for name, sizes, data in answers.select("prompt_id", "spans", "latents").iter_rows():
        for number, latents in enumerate(spans_of(data, sizes, name), start=1):
            if len(latents):
                means.append(latents.mean(0, dtype=np.float64))
                numbers.append(number)
    return np.asarray(means), np.asarray(numbers, dtype=np.int64)


def principal_axes(points_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """The two directions of largest variance [2, D], the mean [D], and their shares of the variance.

    The sign of an axis is arbitrary: its largest component is made positive, so that a map can be repeated.
    """
    centre = points_ND.mean(0)
    x_ND = points_ND - centre
    # Subspace iteration: a whole decomposition of an 8B model's latents would take minutes for two directions.
    width = min(SUBSPACE, *x_ND.shape)
    basis_DK = np.linalg.qr(np.random.default_rng(0).normal(size=(x_ND.shape[1], width)))[0]
    for _ in range(ITERATIONS):
        basis_DK = np.linalg.qr(x_ND.T @ (x_ND @ basis_DK))[0]
    _, strength, within = np.linalg.svd(x_ND @ basis_DK, full_matrices=False)
    axes = (basis_DK @ within[:2].T).T
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
    total = float((x_ND**2).sum()) or 1.0
    return axes, centre, [float(s) ** 2 / total for s in strength[:2]]


def _spread(total: int, n: int) -> np.ndarray:
    return np.unique(np.linspace(0, total - 1, min(total, n)).round().astype(np.int64))
