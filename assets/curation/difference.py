"""What a new publication changes against the one before."""

from collections.abc import Mapping
from typing import Any

import polars as pl


def difference(new: pl.DataFrame, old: pl.DataFrame) -> dict[str, Any]:
    """Rows in and out, gain drift of the rows in both, category shift (in shares)."""
    both = new.join(old.select("row_id", pl.col("gain").alias("gain_before")), on="row_id")
    drift = both.filter(pl.col("gain") != pl.col("gain_before")).select(pl.col("gain") - pl.col("gain_before"))["gain"]
    shares = [dict(t["category"].value_counts(normalize=True).iter_rows()) for t in (new, old)]
    return {
        "rows_in": new.join(old, on="row_id", how="anti").height,
        "rows_out": old.join(new, on="row_id", how="anti").height,
        "rows_kept": both.height,
        "gains_changed": len(drift),
        "gain_drift": {str(change): n for change, n in sorted(drift.value_counts().iter_rows())},
        "mean_gain_before": old["gain"].mean(),
        "mean_gain": new["gain"].mean(),
        "category_shift": {c: shares[0].get(c, 0.0) - shares[1].get(c, 0.0) for c in sorted({*shares[0], *shares[1]})},
    }


def change_report(change: Mapping[str, Any], before: str) -> str:
    """The difference as Markdown; `before` is the version that it is against."""
    means = ["none" if change[m] is None else f"{change[m]:.3f}" for m in ("mean_gain_before", "mean_gain")]
    lines = [
        f"# Change against version {before}",
        "",
        "| rows | count |",
        "| --- | --- |",
        f"| new | {change['rows_in']:,} |",
        f"| gone | {change['rows_out']:,} |",
        f"| in both | {change['rows_kept']:,} |",
        f"| in both, with another gain | {change['gains_changed']:,} |",
        "",
        f"Mean gain: {means[0]} before, {means[1]} now.",
        "",
        "| category | share, percentage points |",
        "| --- | --- |",
        *(f"| {name} | {100 * shift:+.2f} |" for name, shift in change["category_shift"].items()),
    ]
    if change["gain_drift"]:
        lines += ["", "| gain changed by | rows |", "| --- | --- |"]
        lines += [f"| {int(step):+d} | {count:,} |" for step, count in change["gain_drift"].items()]
    return "\n".join(lines) + "\n"
