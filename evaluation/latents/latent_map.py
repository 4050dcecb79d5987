"""Where latents lie: the spans of several models on the two main axes of all of them together (PCA by numpy).

A point is a span: the mean of its latents.  The axes are the models' common ones, so that panels can be compared; what
the two axes leave out is told as their shares of the variance.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from evaluation.latents.retrieval_report import spans_of

MOST = 2_000
"""Points drawn of each model, spread evenly over its answers in their order."""
SUBSPACE, ITERATIONS = 10, 30


def latent_map(answers: Mapping[str, pl.DataFrame], most: int = MOST) -> dict[str, Any]:
    """The map of the models whose answers hold latents (ANSWERS with the column `latents`); {} where none does.

    {"axes": "PCA", "explained": [share, share], "models": {name: {"n", "x", "y", "span"}}}: n spans in all, and of
    those drawn the coordinates and the span's number within its answer, from 1.
    """
    found = {name: span_means(rows) for name, rows in answers.items() if "latents" in rows.columns}
    found = {name: (points, spans) for name, (points, spans) in found.items() if len(points)}
    widths = {name: points.shape[1] for name, (points, _) in found.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"latents of different widths have no common map: {widths}")
    chosen = {name: _spread(len(points), most) for name, (points, _) in found.items()}
    drawn = {name: points[chosen[name]] for name, (points, _) in found.items()}
    if sum(len(points) for points in drawn.values()) < 3:
        return {}
    axes, centre, explained = principal_axes(np.concatenate(list(drawn.values())))
    models = {}
    for name, points in drawn.items():
        x, y = ((points - centre) @ axes.T).round(4).T
        spans = found[name][1][chosen[name]]
        models[name] = {"n": len(found[name][0]), "x": x.tolist(), "y": y.tolist(), "span": spans.tolist()}
    return {"axes": "PCA", "explained": explained, "models": models}


def span_means(answers: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The mean latent of every span [S, D] and its number within its answer [S].

    answers: with `latents` as stored (`retrieval_report.spans_of`, whose errors it raises).  An empty span has no mean.
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


def _spread(n: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64))
