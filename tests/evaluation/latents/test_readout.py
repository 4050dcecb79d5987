"""The read-out: it finds what is linear, admits what is not, and paints tiles where they belong."""

import numpy as np
import pytest

from evaluation.latents import readout
from evaluation.latents.readout import Gram, Readout, ReadoutFit, r2, ridge, tiles_of

GRID = (1, 2)
rng = np.random.default_rng(0)


def pictures(n: int) -> tuple[np.ndarray, np.ndarray]:
    """n frames of 1x2 tiles of 4 px whose features [n,2,48] are their pixels in another basis."""
    pixels = rng.integers(0, 256, (n, 4, 8, 3), dtype=np.uint8)
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(48, 48)))[0]
    return pixels, np.stack([tiles_of(p, GRID, 4) @ basis for p in pixels])


def fitted(features: np.ndarray, pixels: np.ndarray, held_out: int) -> Readout:
    fit = ReadoutFit()
    for number, (x, y) in enumerate(zip(features, pixels, strict=True)):
        fit.add_observed(x, y, GRID, number < held_out)
        if 0 < number < held_out:
            fit.add_future((x, y), (features[number - 1], pixels[number - 1]), GRID)
    result = fit.fit()
    assert result is not None
    return result


def test_tiles_are_in_the_order_of_the_merged_tokens() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:2, 2:] = 255  # the upper right tile of 2x2
    assert tiles_of(pixels, (2, 2), 2).mean(1).tolist() == [0, 1, 0, 0]
    assert tiles_of(pixels, (2, 2), 1).mean(1).tolist() == [0, 1, 0, 0], "smaller tiles are averages"


def test_what_is_linear_is_painted_as_it_is() -> None:
    pixels, features = pictures(200)
    result = fitted(features, pixels, held_out=40)
    assert result.r2 is not None and result.r2 > 0.99 and result.r2_of_change is not None and result.r2_of_change > 0.99
    painted = result.paint(features[0], GRID)
    assert np.abs(painted.astype(int) - pixels[0]).mean() < 4
    assert result.rows == 2 * 160


def test_what_is_not_in_the_features_is_admitted() -> None:
    pixels, features = pictures(200)
    result = fitted(rng.normal(size=features.shape), pixels, held_out=40)
    assert result.r2 is not None and result.r2 < 0.05 and result.r2_of_change is not None and result.r2_of_change < 0.05


def test_a_background_alone_explains_no_change() -> None:
    """Each clip has its own background, which the features tell, and a change, which they do not."""
    fit = ReadoutFit()
    for number in range(100):
        colour = rng.random((2, 1))
        before = np.full((4, 8, 3), 0, np.uint8) + np.repeat(colour * 200, 4, 1).reshape(1, 8, 1).astype(np.uint8)
        after = before + rng.integers(0, 20, before.shape, dtype=np.uint8)
        fit.add_observed(colour, before, GRID, number % 5 == 0)
        fit.add_future((colour + 1e-3 * rng.normal(size=(2, 1)), after), (colour, before), GRID)
    result = fit.fit()
    assert result is not None and result.r2 is not None and result.r2 > 0.8
    assert result.r2_of_change is not None and result.r2_of_change < 0.05


def test_latents_that_are_missing_are_left_grey_and_more_than_fit_are_not_painted() -> None:
    one = Readout(np.zeros((49, 48)), 4, 1, 0.1, None, None)
    assert (one.paint(np.ones((1, 48)), GRID)[:, :4] == 0).all() and (
        one.paint(np.ones((1, 48)), GRID)[:, 4:] == 128
    ).all()
    assert one.paint(np.ones((5, 48)), GRID).shape == (4, 8, 3)


def test_nothing_is_fitted_without_something_to_hold_out() -> None:
    fit = ReadoutFit()
    pixels, features = pictures(2)
    fit.add_observed(features[0], pixels[0], GRID, held_out=False)
    assert fit.fit() is None


# ---- the sums


def test_sums_are_those_of_all_rows_however_they_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readout, "ROWS", 7)
    x, y, gram = rng.normal(size=(20, 3)), rng.normal(size=(20, 2)), Gram()
    for row in range(20):
        gram.add(x[row : row + 1], y[row : row + 1])
    one = np.hstack([x, np.ones((20, 1))])
    for result, expected in zip(gram.sums(), (one.T @ one, one.T @ y, y.sum(0), np.square(y).sum()), strict=True):
        np.testing.assert_allclose(result, expected)


def test_ridge_and_r2_are_the_textbooks() -> None:
    x, y, gram, other = rng.normal(size=(30, 3)), rng.normal(size=(30, 2)), Gram(), Gram()
    gram.add(x, y)
    one = np.hstack([x, np.ones((30, 1))])
    weight = 0.1 * np.square(x).sum(0).mean()
    expected = np.linalg.solve(one.T @ one + weight * np.diag([1, 1, 1, 0]), one.T @ y)
    weights = ridge(gram, 0.1)
    np.testing.assert_allclose(weights, expected)
    x2, y2 = rng.normal(size=(9, 3)), rng.normal(size=(9, 2))
    other.add(x2, y2)
    residual = np.square(y2 - np.hstack([x2, np.ones((9, 1))]) @ weights).sum()
    assert r2(weights, other) == pytest.approx(1 - residual / np.square(y2 - y2.mean(0)).sum())


def test_r2_is_unknown_where_nothing_varies() -> None:
    gram = Gram()
    assert r2(np.zeros((2, 1)), gram) is None
    gram.add(np.ones((3, 1)), np.full((3, 1), 0.3))
    assert r2(np.zeros((2, 1)), gram) is None
