"""The order of the training rows: a fixed list, so that a run is repeated, resumed and split over processes without its
history."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count, islice
from typing import NamedTuple

import numpy as np

from training.recipes import SftRecipe, micro_batches


class Sample(NamedTuple):
    """A row by its number, whether it keeps its latent spans, and whether its loss counts."""

    row: int
    spans: bool
    counts: bool


def sample_rows(depths: Sequence[int], recipe: SftRecipe, seed: int) -> list[Sample]:
    """Every row once an epoch, each time in a fresh order; with max_steps, of as many epochs as these take.

    depths: future frames of each row, by which its probability to keep its spans is chosen (1, 2, 3 or more).  With
    `group_by_length`, each run of rows that one device takes at once has one depth and all or no spans, in proportion
    to the data; what fills no run comes last.  The list is filled up to whole optimiser steps with samples that do not
    count: it is the same for any number of processes, and none of them waits for another.
    """
    rng = np.random.default_rng(seed)
    total = recipe.max_steps and recipe.max_steps * recipe.global_batch_size
    order = _epochs(depths, recipe.latent_keep_prob, rng, count() if total else range(recipe.num_train_epochs))
    if recipe.group_by_length:
        order = _grouped(order, depths, micro_batches(recipe, processes=1)[0])
    chosen = list(islice(order, total))
    missing = -len(chosen) % recipe.global_batch_size
    return [Sample(row, spans, True) for row, spans in chosen] + [Sample(chosen[0][0], False, False)] * missing


def _epochs(
    depths: Sequence[int], latent_keep_prob: tuple[float, float, float], rng: np.random.Generator, epochs: Iterable[int]
) -> Iterator[tuple[int, bool]]:
    keep = np.array(latent_keep_prob)[np.clip(depths, 1, 3) - 1]
    for _ in epochs:
        spans = rng.random(len(depths)) < keep
        yield from ((row, bool(spans[row])) for row in rng.permutation(len(depths)).tolist())


def _grouped(order: Iterator[tuple[int, bool]], depths: Sequence[int], batch: int) -> Iterator[tuple[int, bool]]:
    groups: dict[tuple[int, bool], list[tuple[int, bool]]] = {}
    for row, spans in order:
        group = groups.setdefault((depths[row], spans), [])
        group.append((row, spans))
        if len(group) == batch:
            yield from group
            group.clear()
    yield from chain.from_iterable(groups.values())
