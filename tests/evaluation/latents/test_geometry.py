"""The geometry of stored latents: cosines and ranks by hand and over all pairs, and maps that keep distances."""

import numpy as np
import polars as pl
import pytest

from evaluation.latents.geometry import (
    cosines,
    effective_rank,
    latent_map,
    latent_statistics,
    principal_axes,
    span_means,
    spans_of,
)


def answers(*latents: list[list[list[float]]]) -> pl.DataFrame:
    """One answer for each list of spans, which are lists of latents."""
    rows = [
        {
            "prompt_id": str(number),
            "spans": [len(span) for span in spans],
            "latents": np.asarray([v for span in spans for v in span], "<f2").tobytes() if any(spans) else None,
        }
        for number, spans in enumerate(latents)
    ]
    return pl.DataFrame(rows, {"prompt_id": pl.String, "spans": pl.List(pl.Int64), "latents": pl.Binary})


def one_span(latents: list[np.ndarray | None]) -> pl.DataFrame:
    """One answer each, its latents in one span."""
    return answers(*([] if each is None else [each.tolist()] for each in latents))


def test_a_span_is_the_mean_of_its_latents_and_keeps_its_number() -> None:
    table = answers([[[1, 2], [3, 4]], [], [[5, 5]]], [], [[[0, 1]]])
    means, numbers = span_means(table)
    assert means.tolist() == [[2, 3], [5, 5], [0, 1]] and numbers.tolist() == [1, 3, 1]


def test_points_on_a_line_have_one_axis_and_keep_their_distances() -> None:
    result = latent_map({"sft": answers([[[0, 0, 0]], [[3, 0, 4]], [[6, 0, 8]]])})
    model = result["models"]["sft"]
    assert result["explained"] == pytest.approx([1.0, 0.0]) and model["y"] == pytest.approx([0, 0, 0])
    assert np.diff(model["x"]) == pytest.approx([5, 5]) and model["span"] == [1, 2, 3]


def test_the_axes_are_those_of_a_whole_decomposition() -> None:
    points = np.random.default_rng(0).normal(size=(400, 64)) * np.linspace(4, 1, 64) + 7
    axes, centre, explained = principal_axes(points)
    _, strength, directions = np.linalg.svd(points - points.mean(0), full_matrices=False)
    assert np.abs(axes @ directions[:2].T) == pytest.approx(np.eye(2), abs=0.02)
    assert explained == pytest.approx((strength**2 / (strength**2).sum())[:2].tolist(), rel=1e-3)
    assert centre == pytest.approx(points.mean(0))


def test_models_share_their_axes_and_many_spans_are_thinned_evenly() -> None:
    one = answers(*[[[[float(i), 0.0]]] for i in range(101)])
    other = answers([[[0.0, 50.0]]])
    result = latent_map({"sft": one, "rl": other, "base": one.drop("latents")}, n=11)
    sft = result["models"]["sft"]
    assert list(result["models"]) == ["sft", "rl"] and sft["n"] == 101 and len(sft["x"]) == 11
    assert np.hypot(np.diff(sft["x"]), np.diff(sft["y"])) == pytest.approx([10.0] * 10, abs=1e-3)
    assert latent_map({"sft": one, "rl": other}, n=11) == {**result}


def test_there_is_no_map_without_latents_or_across_widths() -> None:
    assert latent_map({"base": answers([], [])}) == {} and latent_map({}) == {}
    with pytest.raises(ValueError, match=r"different widths.*'sft': 2, 'rl': 3"):
        latent_map({"sft": answers([[[0, 1]]]), "rl": answers([[[0, 1, 2]]])})


def test_bytes_that_are_no_latents_are_refused_by_answer() -> None:
    table = answers([[[1, 2]]]).with_columns(latents=pl.lit(b"abc"))
    with pytest.raises(ValueError, match="answer '0'"):
        span_means(table)


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
        statistics = latent_statistics(one_span([*latents, None]))
        assert statistics is not None and (statistics["n_answers"], statistics["n_latents"]) == (30, 120)
        for kind in ("within_item_cosine", "between_item_cosine"):
            assert statistics[kind]["mean"] == pytest.approx(cosine, abs=0.06) and statistics[kind]["n"] == 30
            assert statistics[kind]["interval"][0] <= statistics[kind]["mean"] <= statistics[kind]["interval"][1]
    one = latent_statistics(one_span([np.ones((1, 8)), None]))
    assert one is not None and one["effective_rank"] == 1.0
    assert one["within_item_cosine"]["mean"] is None and one["between_item_cosine"]["mean"] is None


def test_without_latents_there_is_nothing_to_say() -> None:
    assert latent_statistics(one_span([None, None])) is None


def test_bytes_that_are_no_latents_of_these_spans_are_named() -> None:
    broken = one_span([np.ones((2, 3))]).with_columns(pl.Series("spans", [[5]]))
    with pytest.raises(ValueError, match="answer '0' has 5 latents"):
        latent_statistics(broken)


# ---- stored latents


def test_stored_latents_are_split_by_span() -> None:
    stored = np.arange(12, dtype="<f2").reshape(4, 3)
    first, empty, second = spans_of(stored.tobytes(), [1, 0, 3])
    assert first.tolist() == [[0, 1, 2]] and empty.shape == (0, 3)
    assert second.tolist() == stored[1:].tolist() and second.dtype == np.float32


def test_an_answer_without_latents_has_empty_spans() -> None:
    assert spans_of(None, []) == []
    assert [len(latents) for latents in spans_of(None, [0, 0])] == [0, 0]


@pytest.mark.parametrize(("data", "sizes"), [(None, [2]), (b"\0" * 5, [2]), (b"\0\0", [])])
def test_bytes_that_are_not_those_of_the_spans_name_the_answer(data: bytes | None, sizes: list[int]) -> None:
    with pytest.raises(ValueError, match=r"'00017'.*keep_latents"):
        spans_of(data, sizes, "00017")


def test_latents_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="'x' has latents that are not finite"):
        spans_of(np.array([np.inf], "<f2").tobytes(), [1], "x")
