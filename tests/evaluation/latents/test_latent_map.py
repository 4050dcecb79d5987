"""The map shows spans where they are: distances along the two main axes, and what these leave out."""

import numpy as np
import polars as pl
import pytest

from evaluation.latents.latent_map import latent_map, principal_axes, span_means


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


def test_a_span_is_the_mean_of_its_latents_and_keeps_its_number() -> None:
    table = answers([[[1, 2], [3, 4]], [], [[5, 5]]], [], [[[0, 1]]])
    means, numbers = span_means(table)
    assert means.tolist() == [[2, 3], [5, 5], [0, 1]] and numbers.tolist() == [1, 3, 1]


def test_points_on_a_line_have_one_axis_and_keep_their_distances() -> None:
    found = latent_map({"sft": answers([[[0, 0, 0]], [[3, 0, 4]], [[6, 0, 8]]])})
    model = found["models"]["sft"]
    assert found["explained"] == pytest.approx([1.0, 0.0]) and model["y"] == pytest.approx([0, 0, 0])
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
    found = latent_map({"sft": one, "rl": other, "base": one.drop("latents")}, most=11)
    sft = found["models"]["sft"]
    assert list(found["models"]) == ["sft", "rl"] and sft["n"] == 101 and len(sft["x"]) == 11
    assert np.hypot(np.diff(sft["x"]), np.diff(sft["y"])) == pytest.approx([10.0] * 10, abs=1e-3)
    assert latent_map({"sft": one, "rl": other}, most=11) == {**found}


def test_there_is_no_map_without_latents_or_across_widths() -> None:
    assert latent_map({"base": answers([], [])}) == {} and latent_map({}) == {}
    with pytest.raises(ValueError, match=r"different widths.*'sft': 2, 'rl': 3"):
        latent_map({"sft": answers([[[0, 1]]]), "rl": answers([[[0, 1, 2]]])})


def test_bytes_that_are_no_latents_are_refused_by_answer() -> None:
    table = answers([[[1, 2]]]).with_columns(latents=pl.lit(b"abc"))
    with pytest.raises(ValueError, match="answer '0'"):
        span_means(table)
