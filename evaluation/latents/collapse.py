"""Whether latents say different things for different items, from those that were stored with the answers.

Names: n latents of an answer, N of all answers, D hidden size.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from evaluation.latents.retrieval_report import spans_of
from evaluation.statistics import bootstrap_mean


def latent_statistics(answers: pl.DataFrame) -> dict[str, Any] | None:
    """How alike the latents of an answers table with the column `latents` are, one answer an item; None without any.

    `within_item_cosine`: the mean cosine over the pairs of an answer's latents; `between_item_cosine`: that of its
    latents with all other answers' latents; both as means over answers with bootstrap intervals.  Latents that say the
    same whatever is asked have a between-item cosine near 1 and an effective rank near 1.
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
    """Unit vectors, float64; a zero vector stays zero and is like nothing."""
    vectors = vectors.astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
