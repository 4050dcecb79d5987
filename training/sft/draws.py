"""Which row is seen when: a fixed list, so that a run can be repeated, resumed and shared out without its history."""

from collections.abc import Iterator, Sequence

import numpy as np

Draw = tuple[int, bool]  # a row, and whether it keeps its latent spans


def draw_rows(
    depths: Sequence[int], total: int, batch: int, span_share: tuple[float, float, float], bucket: bool, seed: int
) -> list[Draw]:
    """`total` draws, epoch after epoch in a fresh order.

    depths: future frames of each row.  A row keeps its spans in `span_share` of its draws, by its depth (1, 2, 3 or
    more).  With `bucket`, each run of `batch` draws has one depth and all or no spans, in proportion to the data.
    """
    rng = np.random.default_rng(seed)
    draws = _draws(depths, span_share, rng)
    if bucket:
        draws = _bucketed(draws, depths, batch)
    return [next(draws) for _ in range(total)]


def _draws(depths: Sequence[int], span_share: tuple[float, float, float], rng: np.random.Generator) -> Iterator[Draw]:
    share = np.array(span_share)[np.minimum(depths, 3) - 1]
    while True:
        spans = rng.random(len(depths)) < share
        yield from ((row, bool(spans[row])) for row in rng.permutation(len(depths)).tolist())


def _bucketed(draws: Iterator[Draw], depths: Sequence[int], batch: int) -> Iterator[Draw]:
    waiting: dict[tuple[int, bool], list[Draw]] = {}
    for row, spans in draws:
        bucket = waiting.setdefault((depths[row], spans), [])
        bucket.append((row, spans))
        if len(bucket) == batch:
            yield from bucket
            bucket.clear()
