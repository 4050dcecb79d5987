"""Which row is seen when: a fixed list, so that a run can be repeated, resumed and shared out without its history."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count, islice

import numpy as np

Draw = tuple[int, bool, bool]  # a row, whether it keeps its latent spans, and whether it counts


def draw_rows(
    depths: Sequence[int],
    batch: int,
    span_share: tuple[float, float, float],
    bucket: bool,
    seed: int,
    *,
    epochs: int = 1,
    total: int | None = None,
    devices: int = 1,
) -> list[Draw]:
    """`epochs` times every row, each time in a fresh order; or `total` draws, however many epochs that takes.

    depths: future frames of each row.  A row keeps its spans in `span_share` of its draws, by its depth (1, 2, 3 or
    more).  With `bucket`, each run of `batch` draws has one depth and all or no spans, in proportion to the data; what
    fills no run comes last.  So that no process waits for another, the list is filled up to whole batches of all
    `devices` with draws that do not count.
    """
    rng = np.random.default_rng(seed)
    seen = _epochs(depths, span_share, rng, count() if total is not None else range(epochs))
    drawn = list(islice(_bucketed(seen, depths, batch) if bucket else seen, total))
    missing = -len(drawn) % (batch * devices)
    return [(row, spans, True) for row, spans in drawn] + [(drawn[0][0], False, False)] * missing


def _epochs(
    depths: Sequence[int], span_share: tuple[float, float, float], rng: np.random.Generator, epochs: Iterable[int]
) -> Iterator[tuple[int, bool]]:
    share = np.array(span_share)[np.clip(depths, 1, 3) - 1]
    for _ in epochs:
        spans = rng.random(len(depths)) < share
        yield from ((row, bool(spans[row])) for row in rng.permutation(len(depths)).tolist())


def _bucketed(draws: Iterator[tuple[int, bool]], depths: Sequence[int], batch: int) -> Iterator[tuple[int, bool]]:
    waiting: dict[tuple[int, bool], list[tuple[int, bool]]] = {}
    for row, spans in draws:
        bucket = waiting.setdefault((depths[row], spans), [])
        bucket.append((row, spans))
        if len(bucket) == batch:
            yield from bucket
            bucket.clear()
    yield from chain.from_iterable(waiting.values())
