"""How alike latents are, against values by hand and against all pairs one by one."""

import numpy as np
import polars as pl
import pytest

from evaluation.latents.collapse import cosines, effective_rank, latent_statistics


def answers(latents: list[np.ndarray | None]) -> pl.DataFrame:
    """One answer each, its latents in one span."""
    return pl.DataFrame(
        {
            "prompt_id": [f"item{number}" for number in range(len(latents))],
            "spans": [[] if own is None else [len(own)] for own in latents],
            "latents": [None if own is None else own.astype("<f2").tobytes() for own in latents],
        },
        schema={"prompt_id": pl.String, "spans": pl.List(pl.Int64), "latents": pl.Binary},
    )


def test_cosines_by_hand() -> None:
    items = [np.array([[2.0, 0.0], [0.0, 3.0]]), np.array([[1.0, 1.0]]), np.array([[-1.0, 0.0], [-5.0, 0.0]])]
    within, between = cosines(items)
    half = np.sqrt(0.5)
    assert within == pytest.approx([0.0, 1.0]), "an item of one latent has no pair"
    # pairs of item 0: (2,0) and (0,3) with (1,1): half each; with the last two: -1 -1 0 0
    assert between == pytest.approx([(2 * half - 2) / 6, (2 * half - 2 * half) / 4, (-2 - 2 * half) / 6])


def test_cosines_are_those_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    items = [rng.normal(size=(n, 5)) + 1 for n in (3, 1, 4)]
    within, between = cosines(items)

    def mean(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
        return float(np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]))

    assert within == pytest.approx(
        [mean([(a, b) for i, a in enumerate(x) for b in x[:i]]) for x in items if len(x) > 1]
    )
    assert between == pytest.approx(
        [mean([(a, b) for a in x for j, y in enumerate(items) if j != i for b in y]) for i, x in enumerate(items)]
    )


def test_a_zero_latent_is_like_nothing() -> None:
    within, between = cosines([np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([[1.0, 0.0]])])
    assert within == [0.0] and between == [0.5, 0.5]


@pytest.mark.parametrize("size", [(200, 4), (5, 40)])
def test_the_effective_rank_counts_directions_that_are_used_alike(size: tuple[int, int]) -> None:
    n, width = size
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(max(n, width), 3)))[0]
    left, right = basis[:n], np.eye(width)[:3]
    left = np.linalg.qr(left - left.mean(0))[0]  # centred and orthonormal
    assert effective_rank(7 + 2 * left @ right) == pytest.approx(3)
    assert effective_rank(7 + left[:, :1] @ right[:1]) == pytest.approx(1)
    shares = np.array([0.5, 0.25, 0.25])
    assert effective_rank(left @ np.diag(shares) @ right) == pytest.approx(2 * np.sqrt(2)), "entropy 1.5 bits"


def test_latents_that_are_one_point_have_rank_one() -> None:
    assert effective_rank(np.full((6, 3), 1.7)) == 1.0


def test_statistics_are_of_the_stored_latents() -> None:
    rng = np.random.default_rng(2)
    apart = [rng.normal(size=(4, 64)) for _ in range(30)]
    collapsed = [1 + 1e-2 * rng.normal(size=(4, 64)) for _ in range(30)]
    for latents, cosine in ((apart, 0.0), (collapsed, 1.0)):
        told = latent_statistics(answers([*latents, None]))
        assert told is not None and (told["n_answers"], told["n_latents"]) == (30, 120)
        for kind in ("within_item_cosine", "between_item_cosine"):
            assert told[kind]["mean"] == pytest.approx(cosine, abs=0.06) and told[kind]["n"] == 30
            assert told[kind]["interval"][0] <= told[kind]["mean"] <= told[kind]["interval"][1]
    one = latent_statistics(answers([np.ones((1, 8)), None]))
    assert one is not None and one["effective_rank"] == 1.0
    assert one["within_item_cosine"]["mean"] is None and one["between_item_cosine"]["mean"] is None


def test_without_latents_there_is_nothing_to_say() -> None:
    assert latent_statistics(answers([None, None])) is None


def test_bytes_that_are_no_latents_of_these_spans_are_named() -> None:
    broken = answers([np.ones((2, 3))]).with_columns(pl.Series("spans", [[5]]))
    with pytest.raises(ValueError, match="item0"):
        latent_statistics(broken)
