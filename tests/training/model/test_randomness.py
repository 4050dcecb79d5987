"""Random numbers by counter: known values, the right distributions, and no row that knows of another."""

from collections.abc import Callable

import pytest
import torch

from training.model import randomness
from training.model.randomness import INTERVENTION, LATENTS, TOKENS, derived_seed, normal, uniform

SEEDS = torch.arange(1000) * 2**40 + 2**62


def test_the_hash_is_splitmix64() -> None:
    """The first two outputs of the published generator from state 0."""
    states = torch.arange(1, 3) * randomness._GOLDEN
    assert [value % 2**64 for value in randomness._mixed(states).tolist()] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


@pytest.mark.parametrize("draw", [uniform, normal])
def test_a_rows_numbers_are_its_seeds(draw: Callable[..., torch.Tensor]) -> None:
    whole = draw(SEEDS, TOKENS, 5, 7)
    assert whole.dtype == (torch.float64 if draw is uniform else torch.float32)
    some = torch.tensor([999, 3, 3, 500])
    assert torch.equal(draw(SEEDS[some], TOKENS, 5, 7), whole[some])
    steps = torch.where(torch.arange(1000) == 4, 6, 5)
    by_row = draw(SEEDS, TOKENS, steps, 7)
    assert (by_row == whole).all(1).logical_not().nonzero().flatten().tolist() == [4]
    assert torch.equal(by_row[4:5], draw(SEEDS[4:5], TOKENS, 6, 7))


def test_streams_steps_and_places_are_apart() -> None:
    sample = torch.stack(
        [uniform(SEEDS, stream, step, 3) for stream in (TOKENS, LATENTS, INTERVENTION) for step in (-1, 0, 1, 2**30)]
    )
    assert len(sample.unique()) == sample.numel()


def distance(values: torch.Tensor, cdf: torch.Tensor) -> float:
    """Kolmogorov's distance of a sample from a distribution, `cdf` being that of the sorted values; times sqrt(n)."""
    n = len(values)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    return float(torch.maximum((steps[1:] - cdf).abs(), (cdf - steps[:-1]).abs()).max()) * n**0.5


@pytest.mark.parametrize("seeds", [torch.arange(40_000), torch.arange(40_000) << 43, SEEDS[:1].expand(40_000)])
def test_uniform_numbers_are_uniform(seeds: torch.Tensor) -> None:
    """Over neighbouring seeds, over seeds that differ in their highest bits, and over the steps of one seed."""
    steps = torch.arange(40_000) if seeds[0] == seeds[1] else torch.zeros(40_000, dtype=torch.long)
    values = uniform(seeds, TOKENS, steps, 1)[:, 0]
    assert values.min() >= 0 and values.max() < 1
    ordered = values.sort().values
    assert distance(ordered, ordered) < 1.95, "1.95 is passed by chance in one of 1,000 samples"


def test_normal_numbers_are_normal() -> None:
    values = normal(SEEDS, LATENTS, 3, 41).flatten()
    ordered = values.double().sort().values
    assert distance(ordered, torch.special.ndtr(ordered)) < 1.95
    assert abs(float(values.mean())) < 0.02 and abs(float(values.std()) - 1) < 0.02


def test_neighbours_are_independent() -> None:
    """Correlations of neighbouring seeds, steps, places and streams: none beyond four standard errors."""
    n = 40_000
    seeds = torch.arange(n)
    here = uniform(seeds, TOKENS, 0, 2)
    others = {
        "seed": uniform(seeds + 1, TOKENS, 0, 1)[:, 0],
        "step": uniform(seeds, TOKENS, 1, 1)[:, 0],
        "place": here[:, 1],
        "stream": uniform(seeds, LATENTS, 0, 1)[:, 0],
    }
    for name, other in others.items():
        correlation = torch.corrcoef(torch.stack([here[:, 0], other]))[0, 1]
        assert abs(float(correlation)) < 4 / n**0.5, name
    pair = normal(seeds, TOKENS, 0, 2)
    for moment in (pair, pair.square()):  # the two halves of Box and Muller's transform
        assert abs(float(torch.corrcoef(moment.T)[0, 1])) < 4 / n**0.5


def test_a_derived_seed_has_63_bits_and_knows_its_parts() -> None:
    seeds = {derived_seed(*parts) for parts in ((0, "a"), (0, "b"), (1, "a"), ("0", "a"), (0, "a", 0))}
    assert len(seeds) == 5 and all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed(0, "a") == 8898938347678966206, "the same in every process: a resumed run relies on it"
