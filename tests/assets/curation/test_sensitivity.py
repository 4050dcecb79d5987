"""Other thresholds, fewer answers, another K: exact where counts decide, honest bounds elsewhere."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from assets.curation.contamination import benchmark_index
from assets.curation.selection import SelectionSettings, select
from assets.curation.sensitivity import sensitivity
from tests.assets.curation.scored_rows import SAMPLES, rows_of, trajectory, write_shards

ROWS, USED = 400, SelectionSettings(top=20)


def stored(folder: Path, audit: float) -> tuple[list[Path], Path, np.ndarray]:
    """Rows that were answered in portions of two and stopped when they could not be kept; every answer [row, 2, 8]."""
    rng = np.random.default_rng(5)
    rates = rng.beta(0.5, 0.7, (ROWS, 2, 1))
    right = rng.random((ROWS, 2, SAMPLES)) < np.sort(rates, axis=1)
    audited = rng.random(ROWS) < audit
    asked = np.full((ROWS, 2), SAMPLES)
    for row in np.flatnonzero(~audited):
        for n in range(0, SAMPLES + 1, 2):
            plain, hint = right[row, 0, :n].sum(), right[row, 1, :n].sum()
            if plain > USED.max_p_t or hint + SAMPLES - n - plain < USED.min_gain:
                asked[row] = n
                break
    known = [[right[row, c, : asked[row, c]].sum() for c in (0, 1)] for row in range(ROWS)]
    plain, hint = np.array(known).T
    full = (asked == SAMPLES).all(1)
    table = rows_of(*(trajectory(i) for i in range(ROWS))).with_columns(
        right_plain=pl.Series(plain), right_hint=pl.Series(hint), asked_plain=pl.Series(asked[:, 0]),
        asked_hint=pl.Series(asked[:, 1]), audited=pl.Series(audited), unjudged=pl.lit(0),
    ).with_columns(
        pl.when(pl.Series(full)).then("right_plain").alias("p_t"),
        pl.when(pl.Series(full)).then("right_hint").alias("p_v"),
        gain_low=pl.col("right_hint") - pl.col("right_plain") - SAMPLES + pl.col("asked_plain"),
        gain_high=pl.col("right_hint") - pl.col("right_plain") + SAMPLES - pl.col("asked_hint"),
    ).with_columns((pl.col("p_v") - pl.col("p_t")).alias("gain"))  # fmt: skip
    told = [
        (f"{row:016x}", condition, sample, "correct" if right[row, c, sample] else "incorrect")
        for row in range(ROWS)
        for c, condition in enumerate(("plain", "hint"))
        for sample in range(asked[row, c])
    ]
    pl.DataFrame(told, schema=["row_id", "condition", "sample", "verdict"], orient="row").write_parquet(
        folder / "verdicts.parquet"
    )  # fmt: skip
    return write_shards(folder / "gains", table, 3), folder / "verdicts.parquet", right


def truth(right: np.ndarray, max_p_t: int, min_gain: int) -> int:
    p_t, p_v = right.sum(2).T
    return int(((p_t <= max_p_t) & (p_v - p_t >= min_gain)).sum())


GRID = [(6, 2), (6, 3), (4, 2), (2, 5), (7, 1), (6, 1), (8, -8)]


def test_stricter_thresholds_are_exact_and_looser_ones_lie_within_their_bounds(tmp_path: Path) -> None:
    files, _, right = stored(tmp_path, audit=0.3)
    pool = select(files, USED, benchmark_index({})).pool
    table = sensitivity(files, USED, SAMPLES, pool, GRID, [20, 1_000])
    assert table.height == len(GRID) * 2
    for row in table.iter_rows(named=True):
        wanted = truth(right, row["max_p_t"], row["min_gain"])
        strict = row["max_p_t"] <= 6 and row["min_gain"] >= 2
        if strict or row["min_gain"] == -8:
            assert (row["kind"], row["passing"], row["passing_low"], row["passing_high"]) == ("exact", *[wanted] * 3)
        else:
            assert row["kind"] == "bounds+audit" and row["passing"] is None
            assert row["passing_low"] <= wanted <= row["passing_high"] and row["passing_low"] < row["passing_high"]
            assert row["estimate_low"] <= wanted <= row["estimate_high"]
            assert row["estimate_low"] < row["estimate"] < row["estimate_high"]
        assert row["published_high"] == min(row["top"], row["passing_high"])


def test_k_moves_the_lowest_gain_and_repeats_are_not_published(tmp_path: Path) -> None:
    files, _, _ = stored(tmp_path, audit=0)
    once = select(files, USED, benchmark_index({})).pool
    pool = once.with_columns(pl.when(pl.col("rank") == 2).then(1).otherwise(pl.col("same")).alias("same"))
    pool = pool.with_columns(pl.when(pl.col("rank") == 3).then(None).otherwise(pl.col("same")).alias("same"))
    few, many = sensitivity(files, USED, SAMPLES, pool, [(6, 2)], [5, 1_000]).to_dicts()
    assert few["clean"] == many["clean"] == pool.height - 2
    assert (few["published_high"], many["published_high"]) == (5, pool.height - 2)
    assert few["lowest_gain"] == once["gain"][6] and many["lowest_gain"] == once["gain"].min()
    assert few["estimate"] is None and few["audited"] == 0


@pytest.mark.parametrize("rollouts", [2, 4])
def test_fewer_answers_are_counted_from_the_first_ones(tmp_path: Path, rollouts: int) -> None:
    files, verdicts, right = stored(tmp_path, audit=0.3)
    pool = select(files, USED, benchmark_index({})).pool
    table = sensitivity(files, USED, SAMPLES, pool, [(6, 2)], [20], [verdicts], [rollouts])
    row = table.filter(pl.col("rollouts") == rollouts).row(0, named=True)
    wanted = truth(right[:, :, :rollouts], {2: 1, 4: 3}[rollouts], 1)
    assert row["passing_low"] <= wanted <= row["passing_high"]
    assert row["estimate_low"] <= wanted <= row["estimate_high"]


def test_without_curtailment_everything_is_exact(tmp_path: Path) -> None:
    files, verdicts, right = stored(tmp_path, audit=1)
    pool = select(files, USED, benchmark_index({})).pool
    table = sensitivity(files, USED, SAMPLES, pool, GRID, [20], [verdicts], [4])
    assert set(table["kind"]) == {"exact"}
    four = table.filter((pl.col("rollouts") == 4) & (pl.col("max_p_t") == 6) & (pl.col("min_gain") == 2))
    assert four["passing"].item() == truth(right[:, :, :4], 3, 1)


def test_fewer_answers_need_the_verdicts(tmp_path: Path) -> None:
    files, _, _ = stored(tmp_path, audit=0)
    pool = select(files, USED, benchmark_index({})).pool
    with pytest.raises(ValueError, match="verdicts"):
        sensitivity(files, USED, SAMPLES, pool, [(6, 2)], [20], [], [4])
