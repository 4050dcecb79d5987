"""A linear read-out from merged features to pixels, which paints latents, and its R² on held-out frames.

Ridge regression in closed form, token by token: the D components of a merged token, and a constant, to the pixels of
its tile.  It is fitted on observed frames only, so it can show nothing of the future that is not in the latents.  It is
evaluated on true future frames of held-out clips: `r2` of their pixels, and `r2_of_change` of their difference to the
last observed frame, since a background is easy to paint.

Only sums over rows are kept (`Gram`), whatever the number of frames.  No torch.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

SIDE = 16
"""Most pixels along a painted tile."""
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge penalties, relative to the mean square of a component; the held-out observed frames choose one."""
ROWS = 1024
"""Rows that are added to the sums at a time."""


class Gram:
    """Sums over rows of [x, 1]'[x, 1], [x, 1]'y and y'y; `constant` 0 where x and y are differences."""

    def __init__(self, constant: float = 1.0) -> None:
        self.constant, self.n = constant, 0
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._xx: Any = 0.0
        self._xy: Any = 0.0
        self._y: Any = 0.0
        self._yy = 0.0

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Rows x [n,D] with their y [n,P]."""
        self._waiting.append((x, y))
        self.n += len(x)
        if sum(len(rows) for rows, _ in self._waiting) >= ROWS:
            self._gather()

    def sums(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """X'X [D+1,D+1], X'Y [D+1,P], the sums of y [P], and the sum of all squares of y.  Needs at least one row."""
        self._gather()
        return self._xx, self._xy, self._y, self._yy

    def _gather(self) -> None:
        if not self._waiting:
            return
        x, y = (np.concatenate(parts).astype(np.float64) for parts in zip(*self._waiting, strict=True))
        self._waiting = []
        x = np.hstack([x, np.full((len(x), 1), self.constant)])
        self._xx += x.T @ x
        self._xy += x.T @ y
        self._y += y.sum(0)
        self._yy += float(np.square(y).sum())


def ridge(gram: Gram, penalty: float) -> np.ndarray:
    """Weights [D+1,P] that minimise |XW - Y|^2 + penalty * m * |W|^2, m the mean square sum of a component.

    The constant is not penalised.
    """
    xx, xy, _, _ = gram.sums()
    weight = np.full(len(xx), penalty * max(float(np.diag(xx)[:-1].mean()), 1e-12))
    weight[-1] = 0.0
    return np.linalg.solve(xx + np.diag(weight), xy)


def r2(weights: np.ndarray, gram: Gram) -> float | None:
    """1 - residual / total sum of squares of the rows in `gram`, whatever the weights were fitted on.

    The total is about the mean of each output, for differences about zero.  None where nothing varies.
    """
    if not gram.n:
        return None
    xx, xy, y, yy = gram.sums()
    residual = yy - 2 * float((weights * xy).sum()) + float((weights * (xx @ weights)).sum())
    total = yy - (float(np.square(y).sum()) / gram.n if gram.constant else 0.0)
    return 1 - residual / total if total > 1e-9 * max(1.0, yy) else None


@dataclass(frozen=True)
class Readout:
    """weights [D+1,P]; side: pixels along a tile, P = 3 * side^2; both R² are of frames that it was not fitted on.

    r2: of the pixels of true future frames, or of the held-out frames where there are none; r2_of_change: of the true
    ones' difference to the last observed frame.  None where nothing varies or there is no such frame.
    """

    weights: np.ndarray
    side: int
    rows: int
    penalty: float
    r2: float | None
    r2_of_change: float | None

    def paint(self, features: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
        """uint8 [rows * side, columns * side, 3] of merged features [n,D]; tiles without a feature are left grey."""
        rows, columns = grid
        tiles = np.full((rows * columns, self.side, self.side, 3), 0.5)
        x = features[: rows * columns].astype(np.float64)
        tiles[: len(x)] = (x @ self.weights[:-1] + self.weights[-1]).reshape(-1, self.side, self.side, 3)
        whole = tiles.reshape(rows, columns, self.side, self.side, 3).swapaxes(1, 2)
        return np.round(whole.reshape(rows * self.side, -1, 3).clip(0, 1) * 255).astype(np.uint8)

    def as_dict(self) -> dict[str, Any]:
        """The fields that a report holds."""
        return {"rows": self.rows, "penalty": self.penalty, "r2": self.r2, "r2_of_change": self.r2_of_change}


class ReadoutFit:
    """Gathers frames and fits.  `observed` frames are fitted on, `held_out` ones choose the penalty, `future` and
    `change` say how good it is."""

    def __init__(self) -> None:
        self.observed, self.held_out, self.future, self.change = Gram(), Gram(), Gram(), Gram(constant=0.0)
        self._side: int | None = None

    def add_observed(self, features: np.ndarray, pixels: np.ndarray, grid: tuple[int, int], held_out: bool) -> None:
        """A frame of features [T,D] and uint8 pixels [H,W,3] on a grid of T tokens."""
        (self.held_out if held_out else self.observed).add(features, self._tiles(pixels, grid))

    def add_future(
        self, true: tuple[np.ndarray, np.ndarray], observed: tuple[np.ndarray, np.ndarray], grid: tuple[int, int]
    ) -> None:
        """A true future frame of a held-out clip and the last observed one, each as features and pixels."""
        now, before = self._tiles(true[1], grid), self._tiles(observed[1], grid)
        self.future.add(true[0], now)
        self.change.add(true[0] - observed[0], now - before)

    def fit(self) -> Readout | None:
        """None without a frame to fit and one to hold out."""
        if not self.observed.n or not self.held_out.n:
            return None
        assert self._side is not None
        fits = {penalty: ridge(self.observed, penalty) for penalty in PENALTIES}
        scores = {penalty: r2(weights, self.held_out) for penalty, weights in fits.items()}
        penalty = max(PENALTIES, key=lambda p: (scores[p] is not None, scores[p] or 0.0))
        weights = fits[penalty]
        judged = self.future if self.future.n else self.held_out
        quality, of_change = r2(weights, judged), r2(weights, self.change)
        return Readout(weights, self._side, self.observed.n, penalty, quality, of_change)

    def _tiles(self, pixels: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
        self._side = self._side or min(SIDE, pixels.shape[0] // grid[0])
        return tiles_of(pixels, grid, self._side)


def tiles_of(pixels: np.ndarray, grid: tuple[int, int], side: int) -> np.ndarray:
    """uint8 [H,W,3] as float [T, 3 * side^2] in 0..1, a row for each merged token in order."""
    rows, columns = grid
    small = Image.fromarray(pixels).resize((columns * side, rows * side), Image.Resampling.BOX)
    split = np.asarray(small, np.float64).reshape(rows, side, columns, side, 3).swapaxes(1, 2) / 255
    return split.reshape(rows * columns, -1)
